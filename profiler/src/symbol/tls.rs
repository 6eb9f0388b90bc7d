//! The functions of a TLS library in a file: OpenSSL's, also in programs that have it built in, such as Node.

use object::read::{Object, ReadRef};
use profiler_common::TlsFunction;

/// A function, and its address in the file's own address space.
pub(super) type TlsAddress = (TlsFunction, u64);

const NAMES: [(&str, TlsFunction); 5] = [
    ("SSL_read", TlsFunction::Read),
    ("SSL_write", TlsFunction::Write),
    ("SSL_read_ex", TlsFunction::ReadExtended),
    ("SSL_write_ex", TlsFunction::WriteExtended),
    ("SSL_free", TlsFunction::Free),
];

/// Each function once; nothing where bytes go by only one way, or by none.
pub(super) fn functions<'data, R: ReadRef<'data>>(object: &object::File<'data, R>) -> Vec<TlsAddress> {
    let exported = find(object.dynamic_symbols());
    let found = if exported.is_empty() { find(object.symbols()) } else { exported };
    let has = |function| found.iter().any(|(other, _)| *other == function);
    if has(TlsFunction::Read) && has(TlsFunction::Write) { found } else { Vec::new() }
}

fn find<'data, S: object::read::ObjectSymbol<'data>>(symbols: impl Iterator<Item = S>) -> Vec<TlsAddress> {
    let mut found: Vec<TlsAddress> = Vec::new();
    for symbol in symbols.filter(|symbol| symbol.is_definition() && symbol.address() != 0) {
        let name = symbol.name_bytes().unwrap_or_default();
        let function = NAMES.iter().find(|(wanted, _)| wanted.as_bytes() == name);
        if let Some((_, function)) =
            function.filter(|(_, known)| !found.iter().any(|(other, _)| other == known))
        {
            found.push((*function, symbol.address()));
        }
    }
    found
}
