//! Runtimes that tell the names of the code that they compiled only when they are asked while they run: what each is asked,
//! and how that is done without harm. All of them answer with a perf map.

mod dotnet;
mod hotspot;
mod java;
mod peer;

use std::io;

pub(crate) use dotnet::request_perf_map as request_dotnet_perf_map;
pub(crate) use hotspot::{HotSpot, VmError};
pub(crate) use java::request_perf_map as request_java_perf_map;
pub(crate) use peer::remove_perf_map;

use crate::target::ProcessError;

/// Why a runtime was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("Java {0} has no Compiler.perfmap: it came with Java 17")]
    OldJava(u32),
    #[error("the JVM was started with -XX:+DisableAttachMechanism")]
    AttachDisabled,
    #[error("the JVM does not handle SIGQUIT: it was started with -Xrs, or is still starting")]
    NoSignal,
    #[error("the JVM did not open its socket in time")]
    NoListener,
    #[error(
        "it has no diagnostics socket in its /tmp: it was started with DOTNET_EnableDiagnostics=0 or another TMPDIR"
    )]
    NoDiagnostics,
    #[error("a file of another user is in the way: {0}")]
    Obstructed(String),
    #[error("it keeps {0} open and writes names itself")]
    WritesItself(String),
    #[error("it answered: {0}")]
    Refused(String),
    #[error("it ended or could not be read: {0}")]
    Process(#[from] ProcessError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}
