//! The folder of a server's own sources: paths below it are shown without it.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::command::script;
use super::process::Process;

/// The project of a running process, as it sees the path; `None` when nothing tells it.
pub(crate) fn project_folder(process: &Process) -> Option<String> {
    let current = process.working_directory().ok()?;
    let folder = folder(&process.arguments().ok()?, &current)?;
    folder.to_str().map(str::to_owned)
}

/// The current folder; or that of the main script where the script is elsewhere and no installed package.
fn folder(arguments: &[OsString], current: &Path) -> Option<PathBuf> {
    let is_root = |path: &Path| path.parent().is_none();
    let of_script =
        script(arguments).filter(|script| Path::new(script).extension().is_some()).and_then(|script| {
            let script = normal(&current.join(script));
            let installed = ["node_modules", "site-packages", "dist-packages"];
            let is_installed = script.iter().any(|part| installed.iter().any(|name| part == *name));
            let is_within = script.starts_with(current) && !is_root(current);
            if is_installed || is_within { None } else { script.parent().map(Path::to_owned) }
        });
    of_script.or_else(|| Some(current.to_owned())).filter(|folder| !is_root(folder))
}

/// Without `.` and `..`, by the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            part => result.push(part),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The current folder counts, unless the script of the server itself is elsewhere.
    #[test]
    fn folders() {
        let of = |command: &str, current: &str| {
            let arguments: Vec<OsString> = command.split(' ').map(OsString::from).collect();
            folder(&arguments, Path::new(current)).map(|folder| folder.display().to_string())
        };
        assert_eq!(of("node dist/index.js", "/app").as_deref(), Some("/app"));
        assert_eq!(of("node /srv/tool/index.js --root /", "/app").as_deref(), Some("/srv/tool"));
        assert_eq!(of("node ../tool/./index.js", "/app/web").as_deref(), Some("/app/tool"));
        assert_eq!(of("node /home/u/.npm/node_modules/x/index.js", "/app").as_deref(), Some("/app"));
        assert_eq!(of("/usr/bin/python3 /usr/bin/mcp-server-git -r .", "/app").as_deref(), Some("/app"));
        assert_eq!(of("python3 -m server", "/app").as_deref(), Some("/app"));
        assert_eq!(of("python3 /srv/server.py", "/").as_deref(), Some("/srv"));
        assert_eq!(of("./server", "/"), None);
    }
}
