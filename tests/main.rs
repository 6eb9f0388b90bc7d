//! Whole-program tests: the built profiler on live servers and on workloads with known answers.
//! Run them with `cargo xtask test`, as root.

mod program {
    mod cache;
    mod calls;
    mod commands;
    mod diagnose;
    mod documents;
    mod dotnet;
    mod failures;
    mod formats;
    mod hostile;
    mod hostile_streams;
    mod interruptions;
    mod java;
    mod known_answers;
    mod known_calls;
    mod long_answers;
    mod mcp_servers;
    mod memory;
    mod namespaces;
    mod native;
    mod node;
    mod other_runtimes;
    mod packages;
    mod peers;
    mod python;
    mod servers;
    mod soak;
    mod stacks;
    mod startup;
    mod top;
    mod wire;
}
