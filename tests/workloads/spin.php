<?php
// All CPU time in one function of an interpreter that the profiler does not read.
function three()
{
    $value = 0;
    for ($step = 0; $step < 300000; $step++) {
        $value ^= $step;
    }
    return $value;
}

echo "ready\n";
while (true) {
    three();
}
