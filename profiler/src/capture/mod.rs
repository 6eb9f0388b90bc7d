//! Load, attach and drain the kernel half, and write what it says into a recording.
