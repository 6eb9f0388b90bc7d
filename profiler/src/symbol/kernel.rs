//! Names of the kernel's functions.

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::demangle::demangle;
use super::namer::Name;

/// The symbols of the running kernel and its modules.
const KALLSYMS: &str = "/proc/kallsyms";

/// For each kernel address: its function. Where the kernel does not tell where its functions are, there are no names.
pub fn kernel_names(addresses: &[u64]) -> Vec<Vec<Name>> {
    let functions = match File::open(KALLSYMS) {
        Ok(symbols) => functions(BufReader::new(symbols), addresses),
        Err(_) => vec![None; addresses.len()],
    };
    let name = |function: String| Name { function: demangle(&function), file: None, line: None };
    functions.into_iter().map(|function| function.map(name).into_iter().collect()).collect()
}

/// The last symbol at or before each address. There are hundreds of thousands of symbols, in no order: of those between two addresses
/// only the last is kept.
fn functions(mut symbols: impl BufRead, addresses: &[u64]) -> Vec<Option<String>> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut found: Vec<(u64, String)> = vec![(0, String::new()); sorted.len()];
    let mut line = String::new();
    while symbols.read_line(&mut line).is_ok_and(|length| length > 0) {
        let mut fields = line.split_ascii_whitespace();
        let start = fields.next().and_then(|start| u64::from_str_radix(start, 16).ok());
        // With `kernel.kptr_restrict` or without privileges all are said to start at zero: any name would be wrong.
        if let (Some(start @ 1..), Some(name)) = (start, fields.nth(1)) {
            let behind = sorted.partition_point(|address| *address < start);
            if let Some((known, function)) = found.get_mut(behind).filter(|(known, _)| *known < start) {
                *known = start;
                function.clear();
                function.push_str(name);
            }
        }
        line.clear();
    }
    for index in 1..found.len() {
        if found[index].0 < found[index - 1].0 {
            found[index] = found[index - 1].clone();
        }
    }
    let function = |address: &u64| {
        let (start, function) = &found[sorted.binary_search(address).ok()?];
        (*start != 0).then(|| function.clone())
    };
    addresses.iter().map(function).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each address has the last symbol at or before it, whatever order they come in; the first of those at one place.
    #[test]
    fn finds_the_symbol_before() {
        let symbols = "0000000000000000 A percpu\nffff1000 T start\nffff1000 T alias\ndamaged\n\nffff3000 t last\t[module]\n\
            ffff2000 W middle\n";
        let addresses = [0xffff_2fff, 0xffff_1000, 0xfff, 0xffff_3000, 0xffff_2000, 0xffff_2fff, 0xffff_1fff];
        let found = functions(symbols.as_bytes(), &addresses);
        let found: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
        let (start, middle, last) = (Some("start"), Some("middle"), Some("last"));
        assert_eq!(found, [middle, start, None, last, middle, middle, start]);
    }

    /// Where all addresses are hidden, nothing has a name.
    #[test]
    fn hidden_addresses_name_nothing() {
        let symbols = "0000000000000000 T start\n0000000000000000 T end\n";
        assert_eq!(functions(symbols.as_bytes(), &[1, u64::MAX]), [None, None]);
    }
}
