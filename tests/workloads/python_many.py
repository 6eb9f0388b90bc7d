"""More processes than there is room for: 1,100 that wait, and their parent, which works."""

import os
import signal

for _ in range(1100):
    if os.fork() == 0:
        signal.pause()
        os._exit(0)
print("ready", flush=True)
value = 0
while True:
    value ^= 1
