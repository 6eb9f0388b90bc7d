//! A guest: what it holds, its run under qemu, and what it printed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::image::Image;
use crate::command::{find_in_path, output_of, run, workspace};

const INIT: &str = include_str!("init.sh");
/// What the archive, unpacked, and the profiler need, with room to spare.
const MEMORY_MIB: &str = "1024";
const POLL: Duration = Duration::from_millis(100);
/// Lines of the console that a failure shows.
const SHOWN_LINES: usize = 40;

/// Makes the archive that all guests start from.
pub(super) fn image(profiler: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let mut image = Image::default();
    for path in ["/proc", "/sys", "/dev", "/tmp"] {
        image.add_folder(Path::new(path));
    }
    image.add(Path::new("/init"), INIT.into());
    let busybox = find_in_path("busybox").context("busybox is missing")?;
    image.copy_program(&busybox, Path::new("/bin/busybox"))?;

    // Debug information is most of the file, and the guest's memory is small.
    let stripped = folder.path().join("mcp-profiler");
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(profiler))?;
    image.copy_program(&stripped, Path::new("/bin/mcp-profiler"))?;

    let workloads = workspace().join("tests/workloads");
    let program = folder.path().join("recursion");
    run(Command::new("cc")
        .args(["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-D_GNU_SOURCE", "-o"])
        .arg(&program)
        .arg(workloads.join("recursion.c")))?;
    image.copy_program(&program, Path::new("/bin/recursion"))?;

    image.copy(&workloads.join("recursion.py"), Path::new("/recursion.py"))?;
    add_python(&mut image)?;
    Ok(image.archive())
}

/// This machine's Python, with no more of its library than it needs to start.
fn add_python(image: &mut Image) -> Result<()> {
    let list = "import sys; print(sys.executable); \
                print(*{m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)}, sep='\\n')";
    let python = find_in_path("python3").context("python3 is missing")?;
    let files = output_of(Command::new(python).args(["-I", "-S", "-c", list]))?;
    let mut files = files.lines().map(Path::new);
    let program = files.next().context("python3 does not say where it is")?.canonicalize()?;
    image.copy_program(&program, &program)?;
    for file in files {
        image.copy_program(file, file)?;
    }
    // The name that the guest starts it by. Python finds its library by where the program really is.
    let start = format!("#!/bin/sh\nexec {} \"$@\"\n", program.display());
    image.add(Path::new("/bin/python3"), start.into());
    Ok(())
}

/// Who executes the guest's instructions.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Accelerator {
    /// qemu itself: slow, and works everywhere.
    Emulation,
    /// The CPU. In a virtual machine it depends on the host whether that works.
    Kvm,
}

/// What a guest printed, and how long it ran.
pub(super) struct Run {
    pub(super) console: String,
    pub(super) took: Duration,
}

/// Boots a kernel with an archive and waits until it powers off. The console goes to `log`.
pub(super) fn boot(
    kernel: &Path,
    archive: &Path,
    log: &Path,
    accelerator: Accelerator,
    limit: Duration,
) -> Result<Run> {
    let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let machine = match accelerator {
        Accelerator::Emulation => ["-accel", "tcg", "-cpu", "max"],
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
    };
    let mut guest = Command::new("qemu-system-x86_64")
        .args(machine)
        .args(["-smp", "2", "-m", MEMORY_MIB, "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stderr(console.try_clone()?)
        .stdout(console)
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = guest.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            guest.kill()?;
            guest.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let console = String::from_utf8_lossy(&fs::read(log)?).replace('\r', "");
    match status {
        Some(status) if status.success() => Ok(Run { console, took: start.elapsed() }),
        Some(status) => bail!("qemu failed ({status}).{}", last_lines(&console)),
        None => bail!("the guest was not done after {} s.{}", limit.as_secs(), last_lines(&console)),
    }
}

/// The end of a console, for a message.
pub(super) fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!(" The end of its console:\n    {}", shown.join("\n    "))
}

/// What a command in the guest did.
#[derive(Debug, PartialEq)]
pub(super) struct Section<'console> {
    pub(super) output: &'console str,
    pub(super) messages: &'console str,
    pub(super) code: i32,
}

impl<'console> Section<'console> {
    /// The command's part of a console; fails if it did not come to its end.
    pub(super) fn find(console: &'console str, name: &str) -> Result<Self> {
        let find = || {
            let (_, rest) = console.split_once(&format!("@begin {name}\n"))?;
            let (output, rest) = rest.split_once(&format!("@messages {name}\n"))?;
            let (messages, rest) = rest.split_once(&format!("@end {name} "))?;
            let code = rest.lines().next()?.parse().ok()?;
            Some(Self { output: output.trim(), messages: messages.trim(), code })
        };
        find().with_context(|| format!("the guest did not finish `{name}`"))
    }

    /// The output of a command that did well.
    pub(super) fn succeeded(self, name: &str) -> Result<&'console str> {
        ensure!(self.code == 0, "`{name}` failed with exit code {} and said: {}", self.code, self.messages);
        Ok(self.output)
    }

    /// The output as JSON, whatever the exit code.
    pub(super) fn json(&self, name: &str) -> Result<Value> {
        serde_json::from_str(self.output).with_context(|| format!("`{name}` did not print JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output, messages and exit code are told apart, and one command from the next.
    #[test]
    fn sections() {
        let console = "boot\n@begin a\nout\n\n@messages a\nerror: no\n\n@end a 1\n@begin b\n";
        let section = Section::find(console, "a").unwrap();
        assert_eq!(section, Section { output: "out", messages: "error: no", code: 1 });
        assert!(section.succeeded("a").unwrap_err().to_string().contains("error: no"));
        assert!(Section::find(console, "b").is_err());
        assert!(Section::find(console, "c").is_err());
    }
}
