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

/// Where the tests' own program starts in memory.
#[cfg(test)]
pub(crate) fn own_start() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let program = std::fs::read_link("/proc/self/exe").unwrap();
    let first = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
    u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
}
