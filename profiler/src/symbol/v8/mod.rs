//! JavaScript: from the frames of a process that runs V8 to functions, files and lines. Its objects are read from its
//! memory while it runs; see `docs/architecture.md` for how a wrong name is avoided.

mod code;
mod function;
mod heap;
mod positions;
mod script;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use profiler_common::{V8Frame, V8Place};

use super::Name;
use crate::unwind::v8::Layout;
use code::{Code, Content};
use function::{Function, Identity, Shared};
use heap::{Address, Heap};
use script::Script;

/// Most functions, scripts or pieces of code of one process that are remembered.
const MAX_REMEMBERED: usize = 1 << 16;
/// Code is looked at again, whether it is still the same, after this long; code that was not found too.
const RECHECK: Duration = Duration::from_secs(1);
/// What stands for code whose functions are not told apart.
const WEBASSEMBLY: &str = "[wasm]";
const REGULAR_EXPRESSION: &str = "[regexp]";

/// The JavaScript of one process.
pub(crate) struct JavaScript {
    heap: Heap,
    known: Known,
    code: BTreeMap<Address, (Arc<Code>, Instant)>,
    no_code: HashMap<Address, Instant>,
    next_serial: u64,
}

/// What was read, by isolate: each thread has its own.
#[derive(Default)]
struct Known {
    scripts: HashMap<(u32, u32), Arc<Script>>,
    functions: HashMap<(u32, Identity), Arc<Function>>,
}

/// What stands for a frame for good: frames with equal ones are the same functions and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    isolate: u32,
    frame: V8Frame,
    code: Option<u64>,
    is_innermost: bool,
}

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// The functions of one or two frames, outermost first: the one that has the frame, and one that it just called, which
    /// has none yet. In each, later functions are inlined into the one before.
    Frames(Vec<Vec<Name>>),
    /// No function of a script: one of V8's own. Its code has a name.
    NoScript,
    /// The memory could not be read, or held something else already.
    Unreadable,
}

impl JavaScript {
    /// The JavaScript of a process.
    pub(crate) fn open(pid: u32, layout: Arc<Layout>) -> io::Result<Self> {
        Ok(Self {
            heap: Heap::open(pid, layout)?,
            known: Known::default(),
            code: BTreeMap::new(),
            no_code: HashMap::new(),
            next_serial: 1,
        })
    }

    /// What a frame of an isolate is known by. Looks up its code, which may not be there later.
    pub(crate) fn key(&mut self, isolate: u32, frame: V8Frame, is_innermost: bool) -> Key {
        let (address, is_exact, frame) = match frame {
            // Where the object lies now is no part of what it is.
            V8Frame::Function { script, function, place, .. } => {
                let frame = V8Frame::Function { shared: 0, script, function, place };
                match place {
                    V8Place::Bytecode(_) | V8Place::Call(0) => {
                        return Key { isolate, frame, code: None, is_innermost: false };
                    }
                    V8Place::Code(address) => (address, is_innermost, frame),
                    V8Place::Call(address) => (address, false, frame),
                }
            }
            // The marker says all that is known: the code is none of V8's heap.
            V8Frame::Marked { frame_type, .. } if self.kind(frame_type).is_some() => {
                let frame = V8Frame::Marked { frame_type, address: 0 };
                return Key { isolate: 0, frame, code: None, is_innermost: false };
            }
            V8Frame::Marked { address, .. } => (address, is_innermost, frame),
        };
        let code = self.code_at(isolate, instruction(address, is_exact)).map(|code| code.serial);
        Key { isolate, frame, code, is_innermost }
    }

    /// Names a frame.
    pub(crate) fn resolve(&mut self, isolate: u32, frame: V8Frame, is_innermost: bool) -> Resolved {
        let (shared, identity, place) = match frame {
            V8Frame::Function { shared, script, function, place } => {
                (shared, Identity { script, function }, place)
            }
            V8Frame::Marked { frame_type, address } => {
                return self.without_function(
                    isolate,
                    frame_type,
                    instruction(address, is_innermost),
                    is_innermost,
                );
            }
        };
        let known = self.known.functions.get(&(isolate, identity)).map(Arc::clone);
        let function =
            match known.map(Found::Function).or_else(|| self.known.read(&self.heap, isolate, shared)) {
                Some(Found::Function(function)) if function.identity == identity => function,
                Some(Found::Native) => return Resolved::NoScript,
                Some(Found::Function(_)) | None => return Resolved::Unreadable,
            };
        Resolved::Frames(match place {
            V8Place::Bytecode(offset) => {
                vec![vec![function.at_bytecode(i32::try_from(offset).unwrap_or(-1))]]
            }
            V8Place::Code(address) => {
                self.in_code(isolate, &function, instruction(address, is_innermost), is_innermost)
            }
            V8Place::Call(address) => {
                let address = instruction(address, false);
                match self.code_at(isolate, address) {
                    Some(code) if code.is_made_for(&function) => vec![code.functions(&function, address)],
                    _ => vec![vec![function.at(None)]],
                }
            }
        })
    }

    /// A frame of a function, whose instruction may belong to another one: a function that has no frame yet, or no more,
    /// runs while the frame is its caller's.
    fn in_code(
        &mut self,
        isolate: u32,
        function: &Function,
        address: u64,
        is_innermost: bool,
    ) -> Vec<Vec<Name>> {
        let without_place = vec![function.at(None)];
        let Some(code) = self.code_at(isolate, address) else { return vec![without_place] };
        let is_own = code.is_made_for(function);
        if is_own && (!is_innermost || code.has_frame(&self.heap, address)) {
            return vec![code.functions(function, address)];
        }
        match &code.content {
            Content::Optimized(optimized) if is_innermost => {
                vec![without_place, code.functions(&optimized.function, address)]
            }
            Content::Baseline { .. } if is_own => vec![without_place, code.functions(function, address)],
            _ => vec![without_place],
        }
    }

    /// Code without a function's frame: what the marker in its frame says, or the code itself.
    fn without_function(
        &mut self,
        isolate: u32,
        frame_type: u32,
        address: u64,
        is_innermost: bool,
    ) -> Resolved {
        let plain = |function: &str| {
            let name = Name { function: function.to_owned(), file: None, line: None };
            Resolved::Frames(vec![vec![name]])
        };
        if let Some(kind) = self.kind(frame_type) {
            return plain(kind);
        }
        let Some(code) = self.code_at(isolate, address) else { return Resolved::NoScript };
        match &code.content {
            Content::RegularExpression => plain(REGULAR_EXPRESSION),
            Content::Optimized(optimized) if is_innermost && frame_type == 0 => {
                Resolved::Frames(vec![code.functions(&optimized.function, address)])
            }
            _ => Resolved::NoScript,
        }
    }

    /// What a marker stands for, if it is code whose functions are not told apart.
    fn kind(&self, frame_type: u32) -> Option<&'static str> {
        let layout = &self.heap.layout;
        if layout.wasm_frames.contains(&frame_type) {
            Some(WEBASSEMBLY)
        } else if layout.regular_expression_frame == Some(frame_type) {
            Some(REGULAR_EXPRESSION)
        } else {
            None
        }
    }

    fn code_at(&mut self, isolate: u32, address: Address) -> Option<Arc<Code>> {
        if address == 0 || address == u64::MAX {
            return None;
        }
        let now = Instant::now();
        let known = self.code.range_mut(..=address).next_back();
        if let Some((start, (code, checked))) = known.filter(|(_, (code, _))| address < code.end) {
            if now < *checked + RECHECK {
                return Some(Arc::clone(code));
            }
            if code.is_current(&self.heap) {
                *checked = now;
                return Some(Arc::clone(code));
            }
            let start = *start;
            self.code.remove(&start);
        }
        if self.no_code.get(&address).is_some_and(|checked| now < *checked + RECHECK) {
            return None;
        }
        let (heap, known) = (&self.heap, &mut self.known);
        let found =
            Code::find(heap, address, self.next_serial, |shared| match known.read(heap, isolate, shared) {
                Some(Found::Function(function)) => Some(function),
                Some(Found::Native) | None => None,
            });
        let Some(code) = found.map(Arc::new) else {
            insert_bounded(&mut self.no_code, address, now);
            return None;
        };
        self.next_serial += 1;
        if self.code.len() >= MAX_REMEMBERED {
            self.code.clear();
        }
        self.code.insert(code.start, (Arc::clone(&code), now));
        Some(code)
    }
}

/// What a `SharedFunctionInfo` is for.
enum Found {
    Function(Arc<Function>),
    /// One of V8's own, or of Node's in C++.
    Native,
}

impl Known {
    fn read(&mut self, heap: &Heap, isolate: u32, shared: Address) -> Option<Found> {
        let (identity, script) = match function::identify(heap, shared)? {
            Shared::OfScript(identity, script) => (identity, script),
            Shared::Native => return Some(Found::Native),
        };
        if let Some(known) = self.functions.get(&(isolate, identity)) {
            return Some(Found::Function(Arc::clone(known)));
        }
        let known = self.scripts.get(&(isolate, identity.script)).map(Arc::clone);
        let script = match known {
            Some(known) => known,
            None => Arc::new(Script::read(heap, script)?),
        };
        let function = Arc::new(Function::read(heap, shared, identity, Arc::clone(&script))?);
        // The collector may have moved it away meanwhile: then what was read is not its name.
        match function::identify(heap, shared)? {
            Shared::OfScript(now, _) if now == identity => {}
            Shared::OfScript(..) | Shared::Native => return None,
        }
        insert_bounded(&mut self.scripts, (isolate, identity.script), script);
        insert_bounded(&mut self.functions, (isolate, identity), Arc::clone(&function));
        Some(Found::Function(function))
    }
}

/// A return address points behind its call.
fn instruction(address: u64, is_exact: bool) -> u64 {
    if is_exact { address } else { address.wrapping_sub(1) }
}

fn insert_bounded<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MAX_REMEMBERED {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// This process's own memory stands for that of a Node.
    fn javascript() -> JavaScript {
        JavaScript::open(std::process::id(), Arc::new(Layout::of_node_22())).unwrap()
    }

    /// An object at the start of memory that this test owns.
    struct Object(Box<[u64; 16]>);

    impl Object {
        fn new(map: &Object, words: &[(usize, u64)]) -> Self {
            let mut object = Self(Box::new([0; 16]));
            object.0[0] = map.tagged();
            words.iter().for_each(|(index, word)| object.0[*index] = *word);
            object
        }

        fn map(instance_type: u16) -> Self {
            let mut map = Self(Box::new([0; 16]));
            map.0[1] = u64::from(instance_type) << 32;
            map
        }

        fn string(map: &Object, text: &[u8]) -> Self {
            let mut string = Self::new(map, &[(1, (text.len() as u64) << 32)]);
            bytemuck::cast_slice_mut::<u64, u8>(&mut string.0[2..])[..text.len()].copy_from_slice(text);
            string
        }

        fn tagged(&self) -> u64 {
            self.0.as_ptr() as u64 + 1
        }
    }

    fn integer(value: u64) -> u64 {
        value << 32
    }

    /// A function of Node 22 is read with its name, file and line; one that has another number by now is not.
    #[test]
    fn functions_are_read() {
        let types = Layout::of_node_22().types;
        let [string_map, shared_map, scope_map, script_map] =
            [40, types.shared, types.scope, types.script].map(Object::map);
        let name = Object::string(&string_map, b"work");
        let file = Object::string(&string_map, b"file:///srv/a%20b.js");
        let source = Object::string(&string_map, b"let a;\nfunction work() {}\n");
        let script = [(1, source.tagged()), (2, file.tagged()), (8, integer(77))];
        let script = Object::new(&script_map, &script);
        let no_slot = integer(u64::from(u32::MAX));
        let names = [(4, name.tagged()), (5, no_slot), (6, name.tagged())];
        let range = [(7, integer(20)), (8, integer(25)), (9, scope_map.tagged())];
        let scope = Object::new(&scope_map, &[names, range].concat());
        let mut shared = Object::new(&shared_map, &[(2, scope.tagged()), (4, script.tagged())]);
        shared.0[6] = integer(3);
        let address = shared.tagged() - 1;
        let frame = |function| {
            let place = V8Place::Bytecode(0);
            V8Frame::Function { shared: address, script: 77, function, place }
        };
        let mut javascript = javascript();
        let expected = Name { function: "work".into(), file: Some("/srv/a b.js".into()), line: Some(2) };
        assert_eq!(javascript.resolve(1, frame(3), false), Resolved::Frames(vec![vec![expected.clone()]]));
        assert_eq!(javascript.resolve(1, frame(4), false), Resolved::Unreadable);
        // What was read once is known for good, in this isolate only.
        shared.0[6] = integer(9);
        assert_eq!(javascript.resolve(1, frame(3), false), Resolved::Frames(vec![vec![expected]]));
        assert_eq!(javascript.resolve(2, frame(3), false), Resolved::Unreadable);
    }

    proptest! {
        /// Whatever an address leads to, work is bounded and nothing panics.
        #[test]
        fn any_address_ends(address: u64, low in 0..1_u64 << 20, words: [u64; 8], pick in 0..8_usize) {
            let mut javascript = javascript();
            // Words that point to each other, and to themselves.
            let mut memory = Box::new(words);
            let start = memory.as_ptr() as u64;
            for word in memory.iter_mut() {
                if *word % 3 != 0 {
                    *word = start + (*word % 8) * 8 + 1;
                }
            }
            for address in [address, low, start + pick as u64 * 8, u64::MAX - low] {
                for place in [V8Place::Bytecode(low as u32), V8Place::Code(address), V8Place::Call(address)] {
                    let frame = V8Frame::Function { shared: address, script: 1, function: 1, place };
                    javascript.key(1, frame, true);
                    javascript.resolve(1, frame, true);
                }
                javascript.resolve(1, V8Frame::Marked { frame_type: 0, address }, true);
            }
            drop(memory);
        }
    }
}
