//! Names for addresses of ELF files, by blazesym.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, UnwindSafe};
use std::path::Path;
use std::sync::Once;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use super::demangle::{demangle, is_mangled};
use super::module::ElfImage;

/// A function at an address, for the first time of asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Demangled function name.
    pub function: String,
    /// Source file, when debug information tells it.
    pub file: Option<String>,
    /// Line in that file.
    pub line: Option<u32>,
}

/// What stubs of linkage tables are called.
const LINKAGE: &str = "[plt]";

/// Names addresses. Keeps the symbol tables that it has parsed, which can be tens of megabytes: drop it between uses.
pub struct Namer {
    symbolizer: Symbolizer,
}

impl Default for Namer {
    fn default() -> Self {
        Self {
            symbolizer: Symbolizer::builder()
                .enable_code_info(true)
                .enable_demangling(false)
                .enable_inlined_fns(true)
                .build(),
        }
    }
}

impl Namer {
    /// For each address in the file's own address space: its functions, outermost first; empty when unknown.
    pub fn elf(&self, image: &ElfImage, addresses: &[u64]) -> Vec<Vec<Name>> {
        let mut names = match image.names_path() {
            Some(path) => self.of_file(path, addresses),
            None => vec![Vec::new(); addresses.len()],
        };
        // Without debug information, Go's own table knows more than symbols do, and it is never stripped.
        let has_lines = |names: &[Name]| names.iter().any(|name| name.file.is_some());
        if names.iter().any(|names| !has_lines(names)) {
            for (names, go) in names.iter_mut().zip(image.go_names(addresses)) {
                if !has_lines(names) && !go.is_empty() {
                    *names = go;
                }
            }
        }
        // The symbol before, such as `_init`, may have no length: its name would be that of the stubs behind it.
        for (names, _) in names.iter_mut().zip(addresses).filter(|(_, address)| image.is_linkage(**address)) {
            *names = vec![Name { function: LINKAGE.to_owned(), file: None, line: None }];
        }
        names
    }

    fn of_file(&self, path: &Path, addresses: &[u64]) -> Vec<Vec<Name>> {
        let mut elf = Elf::new(path);
        let symbols = self.symbols(elf.clone(), addresses);
        let mut names: Vec<Vec<Name>> = symbols.iter().map(functions).collect();
        names.resize(addresses.len(), Vec::new());
        // Debug information that is but for lines has the last part of names only: `{async_block#0}` of whatever function it is in.
        let is_bare = |at: &usize| symbols.get(*at).is_some_and(is_bare);
        let bare: Vec<usize> = (0..names.len()).filter(is_bare).collect();
        if !bare.is_empty() {
            elf.debug_syms = false;
            let addresses: Vec<u64> = bare.iter().map(|at| addresses[*at]).collect();
            for (at, symbol) in bare.into_iter().zip(self.symbols(elf, &addresses)) {
                if let Some(symbol) = symbol.as_sym().filter(|symbol| is_mangled(&symbol.name))
                    && let Some(outermost) = names[at].first_mut()
                {
                    outermost.function = demangle(&symbol.name);
                }
            }
        }
        names
    }

    /// Of each address; none at all where the file can't be read.
    fn symbols(&self, elf: Elf, addresses: &[u64]) -> Vec<Symbolized<'_>> {
        let source = Source::Elf(elf);
        // Files of others may be damaged on purpose, and the library panics over some: then they have no names.
        let symbolize = AssertUnwindSafe(|| self.symbolizer.symbolize(&source, Input::VirtOffset(addresses)));
        quietly(symbolize).and_then(Result::ok).unwrap_or_default()
    }
}

/// What a function returns; `None` when it panics, of which nobody is told.
fn quietly<T>(run: impl FnOnce() -> T + UnwindSafe) -> Option<T> {
    thread_local!(static IS_QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                report(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let outcome = std::panic::catch_unwind(run);
    IS_QUIET.set(false);
    outcome.ok()
}

/// Source files of languages that mangle names.
const MANGLING: [&str; 4] = ["rs", "cc", "cpp", "cxx"];

/// Whether the name of a function lacks what it is in.
fn is_bare(symbolized: &Symbolized<'_>) -> bool {
    symbolized.as_sym().is_some_and(|symbol| {
        let file = symbol.code_info.as_deref().map(|code| Path::new(&*code.file));
        let extension = file.and_then(|file| file.extension()?.to_str());
        !is_mangled(&symbol.name) && extension.is_some_and(|extension| MANGLING.contains(&extension))
    })
}

fn functions(symbolized: &Symbolized<'_>) -> Vec<Name> {
    let Some(symbol) = symbolized.as_sym() else { return Vec::new() };
    let outermost = name(&symbol.name, symbol.code_info.as_deref());
    let inlined = symbol.inlined.iter().map(|inlined| name(&inlined.name, inlined.code_info.as_ref()));
    std::iter::once(outermost).chain(inlined).collect()
}

fn name(function: &str, code: Option<&CodeInfo<'_>>) -> Name {
    Name {
        function: demangle(function),
        file: code.map(|code| code.to_path().to_string_lossy().into_owned()),
        line: code.and_then(|code| code.line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::own_start;

    /// A panic is no end, and the next one of others is told again.
    #[test]
    fn panics_are_contained() {
        assert_eq!(quietly(|| 1), Some(1));
        assert_eq!(quietly(|| -> u32 { panic!("on purpose") }), None);
        assert_eq!(quietly(|| 2), Some(2));
    }

    #[inline(always)]
    fn inlined(number: u64) -> u64 {
        std::hint::black_box(number)
    }

    /// Functions have their whole names also where debug information, which is but for lines here, has the last part only.
    #[test]
    fn names_are_whole() {
        fn asked() -> u64 {
            inlined(1)
        }
        let asked: fn() -> u64 = asked;
        let image = ElfImage::from_file(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let address = asked as usize as u64 - own_start();
        let [names] = &Namer::default().elf(&image, &[address])[..] else { panic!() };
        let whole = "mcp_profiler::symbol::namer::tests::names_are_whole::asked";
        assert_eq!(names[0].function, whole, "{names:?}");
        assert!(names[0].file.as_ref().is_some_and(|file| file.ends_with("namer.rs")), "{names:?}");
    }
}
