//! Rendering: values from `analysis` to text, JSON, SVG and the formats of other tools.

pub mod call_tree;
pub mod calls;
pub mod diagnose;
pub mod flame_graph;
pub mod folded;
pub mod json;
pub mod pprof;
pub mod speedscope;
pub mod startup;
pub mod style;
pub mod summary;
mod table;
pub mod text;
pub mod top;
pub mod trace;
pub mod units;

/// Why a view could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is nothing to draw.
    #[error(
        "the {recording} holds no samples: the server used no CPU meanwhile. \
         Record it again while clients call its tools"
    )]
    NoSamples {
        /// Which recording.
        recording: &'static str,
    },
    /// The output could not be written.
    #[error(transparent)]
    Write(#[from] std::io::Error),
}
