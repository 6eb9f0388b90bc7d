//! The recording that a view shows: a file, or one that is made first.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Usage;
use crate::analysis::attribution::of_tools;
use crate::analysis::call_list::names;
use crate::analysis::scaling::scale;
use crate::recording::Recording;

use super::record::{Plan, Recorded, SamplingArguments, TargetArguments, record};
use super::terminal::note;
use crate::analysis::functions::{Folding, Functions};

/// Where a view takes its recording from.
#[derive(Args, Debug)]
pub(super) struct Source {
    /// Recording to show; without it, name a target to record first
    #[arg(value_name = "RECORDING", conflicts_with_all = ["mcp", "pid", "duration", "recording"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Only what was done for calls of this tool (prompt, resource, method); can be given several times
    #[arg(long, value_name = "NAME")]
    tool: Vec<String>,
    /// Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]
    #[arg(long, value_name = "FILE", help_heading = "Recording")]
    recording: Option<PathBuf>,
}

/// What views of calls say of a recording without them.
pub(super) const CALLS_NOT_RECORDED: &str =
    "calls were not recorded: record without --no-calls, by this version of mcp-profiler, to see them";

/// Reads a recording, with sampled time brought to the kernel's count: what every view starts from.
pub(super) fn read(path: &Path) -> Result<Recording, crate::recording::Error> {
    let mut recording = crate::recording::read(path)?;
    scale(&mut recording);
    Ok(recording)
}

impl Source {
    /// Whether something is to be recorded first.
    pub(super) fn is_target(&self) -> bool {
        self.target.request().is_some()
    }

    /// The tools that were asked for.
    ///
    /// # Errors
    /// [`Usage`] when one of them was not called.
    pub(super) fn tools(&self, recording: &Recording) -> anyhow::Result<Vec<String>> {
        let is_called = |tool: &&String| {
            recording.calls.iter().any(|recorded| recorded.call.is_of(std::slice::from_ref(*tool)))
        };
        if !self.tool.is_empty() && !recording.meta.has_calls {
            return Err(Usage(CALLS_NOT_RECORDED.to_owned()).into());
        }
        if let Some(missing) = self.tool.iter().find(|tool| !is_called(tool)) {
            let names = names(recording);
            let called = if names.is_empty() { "no calls at all".to_owned() } else { names.join(", ") };
            return Err(Usage(format!(
                "there are no calls of '{missing}' in the recording; it has {called}"
            ))
            .into());
        }
        Ok(self.tool.clone())
    }

    /// Reads the file, or records the target; then leaves out what was not done for the tools that were asked for.
    pub(super) fn open(&self) -> anyhow::Result<Recorded> {
        self.narrow(self.open_whole()?)
    }

    /// Leaves out what was not done for the tools that were asked for.
    pub(super) fn narrow(&self, mut recorded: Recorded) -> anyhow::Result<Recorded> {
        let tools = self.tools(&recorded.recording)?;
        if !tools.is_empty() {
            recorded.recording = of_tools(&recorded.recording, &tools);
        }
        Ok(recorded)
    }

    /// Reads the file, or records the target.
    pub(super) fn open_whole(&self) -> anyhow::Result<Recorded> {
        match (&self.file, self.target.request()) {
            (Some(path), None) => Ok(Recorded { path: path.clone(), recording: read(path)? }),
            (None, Some(request)) => record(&Plan::new(request, &self.sampling, self.recording.clone())),
            (Some(path), Some(_)) => {
                let message =
                    format!("both a recording ({}) and a target are given: name one of them", path.display());
                Err(Usage(message).into())
            }
            (None, None) => {
                let message = "nothing to show: name a recording, or a target to record (--mcp NAME, --pid PID, or a \
                               command after --); `mcp-profiler list` shows what is running";
                Err(Usage(message.to_owned()).into())
            }
        }
    }
}

/// What `--async-stacks` does.
pub(super) const TASKS_HELP: &str = "Show who waits for a task of Python's asyncio below it, and leave out the event loop's own callers; no effect on others";

/// What one frame of a view stands for.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct FoldArguments {
    /// What a frame stands for; functions of a package that call each other are one frame of that package
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    fold_by: FoldBy,
    #[arg(long, conflicts_with = "fold_by", help = TASKS_HELP)]
    async_stacks: bool,
}

impl FoldArguments {
    pub(super) fn folding(self) -> Folding {
        match self.fold_by {
            _ if self.async_stacks => Folding::Task,
            FoldBy::Function => Folding::Function,
            FoldBy::Package => Folding::Package,
        }
    }
}

/// What the frames of a recording stand for. Says so when `--async-stacks` has nothing to change.
pub(super) fn folded(recording: &Recording, folding: Folding) -> Functions {
    let functions = Functions::folded(recording, folding);
    if folding == Folding::Task && !functions.has_tasks() {
        note(
            "--async-stacks changes nothing here: it is for tasks of Python's asyncio, and none was sampled",
        );
    } else if folding == Folding::Task && functions.has_only_tasks_of_uvloop() {
        note(
            "of tasks under uvloop it can't be told who waits for them, before CPython 3.14; asyncio's own loop has that from 3.9 on",
        );
    }
    functions
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum FoldBy {
    /// A function
    #[default]
    Function,
    /// A package: node_modules/x, site-packages/y, a crate, a library, a file of the project
    Package,
}

/// A share of all time, from 0 to 1.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("it must be a share between 0 and 1, such as 0.05".to_owned()),
    }
}
