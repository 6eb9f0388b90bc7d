//! From a sample's frames to a stack of the recording.

use profiler_common::{SampleEvent, StackEnd, V8Frame, V8Place};

use super::Timeline;
use crate::capture::event::{PythonFrame, UserFrame, thread_name};
use crate::capture::v8::Shown;
use crate::recording::{Error, FrameId, FrameKind, StackId, ThreadId};
use crate::symbol::Image;

/// Distinct threads of one process that are remembered; one that comes back after that is written again.
const MAX_REMEMBERED_THREADS: usize = 1 << 16;
/// Pieces of JIT code of one process that a perf map may still come to name.
const MAX_UNNAMED_JIT: usize = 1 << 18;

impl Timeline {
    pub(super) fn sample(
        &mut self,
        sample: &SampleEvent,
        kernel: &[u64],
        user: &[UserFrame],
    ) -> Result<(), Error> {
        let pid = sample.header.pid;
        if !self.processes.contains_key(&pid) {
            // Its fork event was lost.
            self.adopt(pid, None, sample.header.timestamp_ns)?;
            self.read_mappings(pid);
        }
        if sample.unreadable != 0 {
            self.paging.bring_in(pid, sample.unreadable);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.sampled_ns = sample.header.timestamp_ns;
        }
        let stack_end = StackEnd::from_number(sample.stack_end).unwrap_or(StackEnd::NoUserStack);
        let (user, is_outdated) = self.founded(pid, sample.header.timestamp_ns, user);
        let stack_end = if is_outdated { StackEnd::NoMapping } else { stack_end };
        let (user, stack_end) = self.believed(pid, user, stack_end);
        let mut stack: Option<StackId> = None;
        for (depth, frame) in user.iter().enumerate().rev() {
            let is_innermost = depth == 0;
            let frame = match *frame {
                UserFrame::Native(address) | UserFrame::Found(address)
                    if !self.is_code_of_v8(pid, address) =>
                {
                    stack = Some(self.push_native(stack, pid, address, is_innermost)?);
                    continue;
                }
                UserFrame::Native(address) | UserFrame::Found(address) => {
                    V8Frame::Marked { frame_type: 0, address }
                }
                UserFrame::JavaScript(frame) => self.with_likely_call(pid, frame),
                UserFrame::Python(frame) => {
                    stack = self.push_python(stack, pid, FrameKind::Python, frame)?;
                    continue;
                }
                UserFrame::Waiting(frame) => {
                    stack = self.push_python(stack, pid, FrameKind::PythonWaiting, frame)?;
                    continue;
                }
            };
            match self.code.v8.show(&mut self.writer, pid, sample.tid, frame, is_innermost)? {
                Shown::Frames(frames) => {
                    for frame in frames.iter() {
                        stack = Some(self.writer.stack(stack, *frame)?);
                    }
                }
                Shown::Native => {
                    if let Some(address) = frame.address() {
                        stack = Some(self.push_native(stack, pid, address, is_innermost)?);
                    }
                }
            }
        }
        for (depth, &address) in kernel.iter().enumerate().rev() {
            let address = if depth == 0 { address } else { address.wrapping_sub(1) };
            let (frame, is_new) = self.writer.frame(FrameKind::Kernel, self.kernel_module, address)?;
            if is_new {
                self.unnamed.kernel.push((frame, address));
            }
            stack = Some(self.writer.stack(stack, frame)?);
        }
        let thread = self.thread(pid, sample)?;
        self.writer.sample(sample.header.timestamp_ns, thread, stack, self.period_ns, stack_end)?;
        if stack_end == StackEnd::NoMapping
            && !is_outdated
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.met_unknown_code = true;
        }
        self.samples += 1;
        Ok(())
    }

    /// The innermost frames up to the first in code that the kernel half did not know of at that moment, so that it may have taken it
    /// for what was there before; and whether there is one.
    fn founded<'frames>(
        &self,
        pid: u32,
        timestamp_ns: u64,
        user: &'frames [UserFrame],
    ) -> (&'frames [UserFrame], bool) {
        let Some(process) = self.processes.get(&pid).filter(|process| process.newest_code_ns > timestamp_ns)
        else {
            return (user, false);
        };
        let is_new = |(depth, frame): (usize, &UserFrame)| {
            let address = match *frame {
                UserFrame::Native(address) => Some(address),
                UserFrame::JavaScript(frame) => frame.address(),
                UserFrame::Found(_) | UserFrame::Python(_) | UserFrame::Waiting(_) => None,
            };
            let mapped =
                address.and_then(|address| process.space.find(address.wrapping_sub(u64::from(depth > 0))));
            mapped.is_some_and(|mapped| mapped.since_ns > timestamp_ns)
        };
        match user.iter().enumerate().position(is_new) {
            Some(last) => (&user[..=last], true),
            None => (user, false),
        }
    }

    /// The innermost frames up to the first whose caller is a guess, since it keeps no frame pointer.
    fn believed<'frames>(
        &self,
        pid: u32,
        user: &'frames [UserFrame],
        stack_end: StackEnd,
    ) -> (&'frames [UserFrame], StackEnd) {
        let Some(process) = self.processes.get(&pid) else { return (user, stack_end) };
        let Some(asked) = &process.asked else { return (user, stack_end) };
        let is_guess = |frame: &UserFrame| match *frame {
            UserFrame::Native(address) if !asked.keeps_frame_pointer(address) => {
                let module = process.space.find(address).and_then(|mapped| self.modules.get(mapped.module));
                module.is_some_and(|module| matches!(module.image, Image::Jit))
            }
            _ => false,
        };
        match user.iter().position(is_guess) {
            Some(last) if last + 1 < user.len() || stack_end == StackEnd::Outermost => {
                (&user[..=last], StackEnd::NotAscending)
            }
            _ => (user, stack_end),
        }
    }

    fn push_python(
        &mut self,
        stack: Option<StackId>,
        pid: u32,
        kind: FrameKind,
        frame: PythonFrame,
    ) -> Result<Option<StackId>, Error> {
        match self.pythons.frame(&mut self.writer, pid, kind, frame)? {
            Some(frame) => self.writer.stack(stack, frame).map(Some),
            None => Ok(stack),
        }
    }

    fn push_native(
        &mut self,
        stack: Option<StackId>,
        pid: u32,
        address: u64,
        is_innermost: bool,
    ) -> Result<StackId, Error> {
        // A return address is behind its call; look up the call itself.
        let address = if is_innermost { address } else { address.wrapping_sub(1) };
        let frame = self.native_frame(pid, address)?;
        self.writer.stack(stack, frame)
    }

    /// What is on top of a stack need not be a return address.
    fn with_likely_call(&self, pid: u32, frame: V8Frame) -> V8Frame {
        match frame {
            V8Frame::Function { shared, script, function, place: V8Place::Call(address) }
                if !self.is_code_of_v8(pid, address) =>
            {
                V8Frame::Function { shared, script, function, place: V8Place::Call(0) }
            }
            frame => frame,
        }
    }

    /// Whether V8 made the code at an address.
    fn is_code_of_v8(&self, pid: u32, address: u64) -> bool {
        self.code.v8.contains(pid)
            && self.processes.get(&pid).and_then(|process| process.space.find(address)).is_some_and(
                |mapped| {
                    self.modules.get(mapped.module).is_some_and(|module| matches!(module.image, Image::Jit))
                },
            )
    }

    /// A thread ID that is used again, with another name, is another thread.
    fn thread(&mut self, pid: u32, sample: &SampleEvent) -> Result<ThreadId, Error> {
        let process = self.processes.get_mut(&pid).expect("taken up just before");
        match process.threads.get(&sample.tid) {
            Some((id, comm)) if *comm == sample.comm => Ok(*id),
            _ => {
                let id = self.writer.thread(process.id, sample.tid, &thread_name(&sample.comm))?;
                if process.threads.len() >= MAX_REMEMBERED_THREADS {
                    process.threads.clear();
                }
                process.threads.insert(sample.tid, (id, sample.comm));
                Ok(id)
            }
        }
    }

    fn native_frame(&mut self, pid: u32, address: u64) -> Result<FrameId, Error> {
        let process = self.processes.get_mut(&pid).expect("taken up before its samples");
        let Some(mapped) = process.space.find(address) else {
            return Ok(self.writer.frame(FrameKind::Native, self.unknown_module, address)?.0);
        };
        let module = self.modules.get(mapped.module).expect("a mapping has a module");
        let offset = module.address(address, mapped.start, mapped.file_offset);
        if let Image::Jit = module.image {
            let row = match process.jit_module {
                Some(row) => row,
                None => *process.jit_module.insert(self.writer.module(&module.path, None)?),
            };
            let (frame, is_new) = self.writer.frame(FrameKind::Jit, row, offset)?;
            let unnamed = self.unnamed.jit.entry(pid).or_default();
            if is_new && unnamed.len() < MAX_UNNAMED_JIT {
                unnamed.push((frame, offset));
            }
            return Ok(frame);
        }
        let row = match self.module_rows.get(&mapped.module) {
            Some(row) => *row,
            None => {
                let row = self.writer.module(&module.path, module.build_id())?;
                self.module_rows.insert(mapped.module, row);
                row
            }
        };
        let (frame, is_new) = self.writer.frame(FrameKind::Native, row, offset)?;
        if is_new && matches!(module.image, Image::Elf(_)) {
            self.unnamed.elf.entry(mapped.module).or_default().push((frame, offset));
        }
        Ok(frame)
    }
}
