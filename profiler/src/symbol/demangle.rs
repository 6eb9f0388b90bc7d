//! Names as they are written in the source, from names as they are in a symbol table.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, Symbol};

/// Longest demangled name, in bytes: a hostile symbol of some bytes can stand for gigabytes.
const LONGEST: usize = 16 << 10;

/// Whether a name is in a scheme of Rust or of C++, by its start.
pub(super) fn is_mangled(symbol: &str) -> bool {
    symbol.starts_with("_Z") || symbol.starts_with("_R")
}

/// Demangles Rust and C++. Any other name is what it is: demanglers also know types, and would call a C function
/// `a` a `signed char`.
pub(super) fn demangle(symbol: &str) -> String {
    // Rust's legacy scheme is a kind of C++ name, so it is asked first.
    // https://doc.rust-lang.org/rustc/symbol-mangling, https://itanium-cxx-abi.github.io/cxx-abi/abi.html#mangling
    if !is_mangled(symbol) {
        return symbol.to_owned();
    }
    rust(symbol).or_else(|| cpp(symbol)).unwrap_or_else(|| symbol.to_owned())
}

fn rust(symbol: &str) -> Option<String> {
    let name = rustc_demangle::try_demangle(symbol).ok()?;
    let mut text = Bounded::default();
    // The alternate form leaves out hashes.
    write!(text, "{name:#}").ok()?;
    Some(text.0)
}

fn cpp(symbol: &str) -> Option<String> {
    let name = Symbol::new(symbol).ok()?;
    let mut text = Bounded::default();
    name.structured_demangle(&mut text, &DemangleOptions::default()).ok()?;
    Some(text.0)
}

/// Text that refuses to get too long.
#[derive(Default)]
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names of both Rust schemes and of C++ are as in the source.
    #[test]
    fn demangles() {
        assert_eq!(demangle("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"), "core::fmt::Formatter::pad");
        assert_eq!(demangle("_RNvNtCs1234_7mycrate3foo3bar"), "mycrate::foo::bar");
        assert_eq!(demangle("_ZN2v88internal7Isolate4InitEv"), "v8::internal::Isolate::Init()");
    }

    /// Names of C, Go and of compilers stay, also those that are a type in C++'s scheme.
    #[test]
    fn leaves_other_names() {
        for name in ["a", "b", "i", "main", "main.a", "Pi", "_Z", "_R", "_start", "ZN1aE", "R", ""] {
            assert_eq!(demangle(name), name);
        }
    }

    /// A short symbol can stand for an endless name: each argument is a pair of the one before. It stays as it is.
    #[test]
    fn names_have_an_end() {
        const NUMBERS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let symbol = |pairs: usize| {
            let pair = |number: &u8| format!("S0_IS{0}_S{0}_E", char::from(*number));
            format!("_Z1fI1PIiiE{}Evv", NUMBERS[1..=pairs].iter().map(pair).collect::<String>())
        };
        assert!(demangle(&symbol(2)).starts_with("void f<P<int, int>, P<P<int, int>, P<int, int> >, "));
        assert_eq!(demangle(&symbol(30)), symbol(30));
    }

    proptest! {
        /// Whatever a symbol table holds: no panic.
        #[test]
        fn never_panics(name in "_(Z|R)[NvCsEISt0-9a-zA-Z_]{0,60}") {
            demangle(&name);
        }
    }
}
