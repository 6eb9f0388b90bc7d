//! JavaScript: from the frames of a process that runs V8 to functions, files and lines. Its objects are read from its
//! memory while it runs; see `docs/architecture.md` for how a wrong name is avoided.

mod code;
mod function;
mod heap;
mod positions;
mod script;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
                    V8Place::Code(address) => (address, is_innermost, frame),
                    V8Place::Call(address) => (address, false, frame),
                    V8Place::Bytecode(_) => return Key { isolate, frame, code: None, is_innermost: false },
                }
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
        if self.heap.layout.wasm_frames.contains(&frame_type) {
            return plain(WEBASSEMBLY);
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

    fn code_at(&mut self, isolate: u32, address: Address) -> Option<Arc<Code>> {
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
