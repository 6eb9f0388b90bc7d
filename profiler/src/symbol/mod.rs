//! From addresses to names. [`Modules`] knows which file an address came from, [`Namer`] asks blazesym and perf maps.

mod compressed;
mod demangle;
mod go;
mod kernel;
mod module;
mod namer;
mod perf_map;
mod python;
mod tls;
pub(crate) mod v8;

pub(crate) use go::GoTable;
pub use kernel::kernel_names;
pub(crate) use module::InterpreterCode;
pub use module::{ElfImage, Image, Module, ModuleId, Modules};
pub use namer::{Name, Namer};
pub use perf_map::{jit_name, jit_names, perf_map_names};
pub(crate) use python::{PythonFunction, read_function};
