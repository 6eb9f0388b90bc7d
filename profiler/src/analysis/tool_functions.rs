//! Which tool a stack works for, told by the functions on it: `read_file` on a stack is most likely the tool `read_file`.
//!
//! This is a guess: a helper of another tool may have that name. So it only says between which calls in flight a sample is split.

use std::collections::HashMap;

use super::functions::{Folding, Function, Functions};
use crate::recording::{FrameKind, Recording, StackIndex};
use crate::wire::calls::Side;

/// A tool that was called, as a small number.
type Tool = u32;

/// The tools that stacks tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolFunctions {
    /// Of each call its tool; `None` for calls of no tool.
    calls: Vec<Option<Tool>>,
    /// Of each stack the tool whose function is the outermost one of any tool's.
    stacks: Vec<Option<Tool>>,
}

impl ToolFunctions {
    pub(crate) fn new(recording: &Recording) -> Self {
        let mut names: HashMap<String, Tool> = HashMap::new();
        let calls: Vec<Option<Tool>> = recording
            .calls
            .iter()
            .map(|recorded| {
                let call = &recorded.call;
                if call.caller != Side::Client || &*call.method != "tools/call" {
                    return None;
                }
                let name = plain(call.name.as_deref()?);
                let next = Tool::try_from(names.len()).ok()?;
                Some(*names.entry(name).or_insert(next))
            })
            .collect();
        // One tool alone needs not to be told from others.
        if names.len() < 2 {
            return Self { calls, stacks: Vec::new() };
        }
        // A tool that waits for the task that runs is one of its callers.
        let functions = Functions::folded(recording, Folding::Task);
        let tool_of = |function: &Function| {
            let name = is_own(function).then(|| plain(last_part(&function.name)))?;
            names.get(&name).copied()
        };
        let of_function: Vec<Option<Tool>> = functions.all().iter().map(tool_of).collect();
        let of_frame = |frame: usize| {
            functions.of_frame(frame).iter().find_map(|at| of_function.get(at.function).copied().flatten())
        };
        let frames: Vec<Option<Tool>> = (0..recording.frames.len()).map(of_frame).collect();
        let mut stacks: Vec<Option<Tool>> = Vec::with_capacity(recording.stacks.len());
        for node in &recording.stacks {
            // Parents have smaller indices.
            let outer = node.parent.and_then(|parent| stacks.get(parent).copied().flatten());
            stacks.push(outer.or_else(|| frames.get(node.frame).copied().flatten()));
        }
        Self { calls, stacks }
    }

    /// Those of the calls that a stack is most likely for; `None` where it does not say.
    pub(crate) fn tell(&self, stack: Option<StackIndex>, calls: &[usize]) -> Option<Vec<usize>> {
        let tool = self.stacks.get(stack?).copied().flatten()?;
        let told: Vec<usize> =
            calls.iter().copied().filter(|call| self.calls.get(*call) == Some(&Some(tool))).collect();
        (!told.is_empty() && told.len() < calls.len()).then_some(told)
    }
}

/// Whether a function can be a tool's: none of the kernel, of a standard library or of a shared library.
fn is_own(function: &Function) -> bool {
    let package = &*function.package;
    let is_standard = package.ends_with(" stdlib")
        || ["node:", "ext:", "bun:", "go ", "rust "].iter().any(|start| package.starts_with(start));
    match function.kind {
        FrameKind::Python | FrameKind::PythonWaiting | FrameKind::JavaScript => !is_standard,
        FrameKind::Native => !is_standard && !function.module.contains(".so"),
        FrameKind::Kernel | FrameKind::Jit => false,
    }
}

/// `burn` of `Server.burn`, and of `rmcp_server::Server::burn::{{closure}}`.
fn last_part(name: &str) -> &str {
    let is_name = |part: &&str| !part.is_empty() && !part.starts_with(['{', '<']);
    name.split("::").flat_map(|part| part.split('.')).filter(is_name).last().unwrap_or(name)
}

/// Without what languages write differently: `read-file`, `readFile` and `read_file` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    /// The outermost function of any tool decides, however it is written; a stack without one tells nothing.
    #[test]
    fn tells_by_names() {
        let mut builder = Builder::new();
        for tool in ["read-file", "mixed", "burn", "burn"] {
            builder.call(0, tool, 0, 10);
        }
        let burns = builder.stack(&["main", "app::Server::burn::{{closure}}", "spin"]);
        let mixed = builder.stack(&["main", "Tools.mixed", "burn"]);
        let reads = builder.stack(&["main", "readFile"]);
        let other = builder.stack(&["main", "k:burn"]);
        let tools = ToolFunctions::new(&builder.recording);
        let tell = |stack| tools.tell(Some(stack), &[0, 1, 2, 3]);
        assert_eq!(tell(burns), Some(vec![2, 3]));
        assert_eq!(tell(mixed), Some(vec![1]));
        assert_eq!(tell(reads), Some(vec![0]));
        assert_eq!((tell(other), tools.tell(None, &[0, 1])), (None, None));
        assert_eq!(tools.tell(Some(burns), &[0, 1]), None);
    }
}
