#!/bin/busybox sh
# The guest's first process: runs the profiler on two targets, prints what it says between markers, and powers off.

export PATH=/bin:/usr/bin HOME=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

section() {
    name=$1
    shift
    echo "@begin $name"
    "$@" 2>/tmp/messages
    code=$?
    echo
    echo "@messages $name"
    cat /tmp/messages
    echo
    echo "@end $name $code"
}

targets() {
    recursion >/tmp/c-target &
    python3 -I -S /recursion.py >/tmp/python-target &
    wait
}

section kernel uname -r
section doctor mcp-profiler doctor --format json
targets &
parent=$!
until [ -s /tmp/c-target ] && [ -s /tmp/python-target ]; do
    sleep 0.2
done
# One recording for both: most of the time goes into the kernel's verification of the programs.
section record mcp-profiler record --pid $parent --duration 3s --frequency 499 -o /tmp/recording
if [ $code -eq 0 ]; then
    section report mcp-profiler report /tmp/recording --format json
    section stacks mcp-profiler export /tmp/recording --format folded -o -
fi
poweroff -f
