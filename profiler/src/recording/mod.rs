//! The recording: its model, and the SQLite file that holds it.

mod model;

pub use model::{
    Frame, FrameIndex, FrameKind, Gauge, GaugeKind, Line, Meta, Process, ProcessIndex, Recording, Runtime,
    Sample, StackEnd, StackIndex, StackNode, Thread,
};
