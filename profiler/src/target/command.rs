//! What command lines tell: whether a process was started from a configuration's command, whether it only starts another one,
//! and what an MCP server should be called. Pure functions of arguments.
//!
//! How the launchers show up, seen on running ones:
//! `npx -y PACKAGE a` is `npm exec PACKAGE a` in one argument, then `sh -c 'BIN' a`, then `node .../node_modules/.bin/BIN a`;
//! `uvx TOOL a` is `uv tool uvx TOOL a`, then `python .../bin/TOOL a`.

use std::ffi::OsString;
use std::path::{Component, Path};

use super::config::Expanded;

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ash", "ksh", "fish", "busybox"];
/// Programs that run a script: their first argument that is no option.
const INTERPRETERS: &[&str] =
    &["node", "nodejs", "python", "pypy", "ruby", "php", "perl", "deno", "bun", "tsx", "ts-node"];
/// Programs that start another one and wait for it.
const LAUNCHERS: &[&str] = &[
    "npx",
    "npm",
    "pnpm",
    "pnpx",
    "yarn",
    "bunx",
    "uv",
    "uvx",
    "pipx",
    "poetry",
    "pdm",
    "hatch",
    "rye",
    "env",
    "sudo",
    "doas",
    "su",
    "runuser",
    "setsid",
    "nice",
    "timeout",
    "stdbuf",
    "nohup",
    "script",
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "dotenv",
    "dotenvx",
    "nodemon",
    "cargo",
    "tsx",
    "ts-node-dev",
    "direnv",
    "mise",
    "asdf",
    "volta",
    "op",
    "doppler",
    "mcp-profiler",
    "firejail",
    "bwrap",
];
/// Options of interpreters that take the next argument. Of Node, Python, Ruby and PHP.
const OPTIONS_WITH_VALUE: &[&str] = &[
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-W",
    "-X",
    "-I",
    "-d",
    "-C",
    "--env-file",
];

/// Last component of a path.
fn base_name(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// `python` for `/opt/venv/bin/python3.11`, `node` for `node`.
fn family(program: &str) -> &str {
    let name = base_name(program);
    let name = name.strip_suffix(".exe").unwrap_or(name);
    let short =
        name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.' || letter == '-');
    if short.is_empty() { name } else { short }
}

/// Arguments as text. A title that a process wrote over its arguments, as npm does, is split into its words.
fn words(arguments: &[OsString]) -> Vec<String> {
    let texts: Vec<String> =
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match texts.as_slice() {
        [title] if title.starts_with("npm ") || title.starts_with("pnpm ") || title.starts_with("yarn ") => {
            title.split_whitespace().map(str::to_owned).collect()
        }
        _ => texts,
    }
}

/// Where the script of an interpreter's command line stands: the first argument that is no option. `-m MODULE` counts as `MODULE`.
fn script_position(words: &[String]) -> Option<usize> {
    if !INTERPRETERS.contains(&family(words.first()?)) {
        return None;
    }
    let mut position = 1;
    loop {
        let word = words.get(position)?;
        match word.as_str() {
            "-m" | "--" => return (position + 1 < words.len()).then_some(position + 1),
            "-c" | "-e" | "--eval" | "-p" | "--print" | "-" => return None,
            // `deno run`, `bun run`.
            "run" if matches!(family(&words[0]), "deno" | "bun") => position += 1,
            option if OPTIONS_WITH_VALUE.contains(&option) => position += 2,
            option if option.starts_with('-') => position += 1,
            _ => return Some(position),
        }
    }
}

/// The script of an interpreter's command line.
pub(crate) fn script(arguments: &[OsString]) -> Option<String> {
    let mut words = words(arguments);
    let position = script_position(&words)?;
    Some(words.swap_remove(position))
}

/// True when this process does nothing but start another one and wait: a shell, npm, uv, `sudo`...
pub fn is_launcher(arguments: &[OsString]) -> bool {
    let words = words(arguments);
    let Some(program) = words.first() else { return false };
    let program = program.strip_prefix('-').unwrap_or(program);
    let name = family(program);
    if SHELLS.contains(&name) || LAUNCHERS.contains(&name) {
        return true;
    }
    // `go run` waits for the program that it built.
    if name == "go" && words.get(1).is_some_and(|word| word == "run") {
        return true;
    }
    let Some(script) = script_position(&words).map(|position| words[position].as_str()) else { return false };
    // `tsx` is `node .../tsx/dist/cli.mjs`; what it starts is `node --require .../tsx/dist/preflight.cjs`.
    if script.contains("/tsx/dist/cli.") {
        return true;
    }
    let script = base_name(script);
    let script = script.split_once('.').map_or(script, |(stem, _)| stem);
    LAUNCHERS.contains(&script) || matches!(script, "npx-cli" | "npm-cli")
}

/// True for a process that may well hold an MCP server, by its command line. The rule: a program, script, module or package
/// one of whose names has `mcp` or `modelcontextprotocol` as a whole word of it (`mcp-server-git`, `server_mcp.py`,
/// `@modelcontextprotocol/server-everything`, but not `mcpherson`), and that is no launcher and no known client or tool of MCP.
pub fn looks_like_server(arguments: &[OsString]) -> bool {
    if is_launcher(arguments) {
        return false;
    }
    let words = words(arguments);
    let Some(program) = program_word(&words) else { return false };
    // `mcp run server.py` is a server; the inspector, a bridge to a remote server and this profiler are not.
    let tool = ["mcp-profiler", "mcp-stress", "inspector", "mcp-inspector", "mcp-remote"];
    let parts: Vec<&str> = program.split('/').collect();
    if parts.iter().any(|part| tool.contains(&stem(part))) {
        return false;
    }
    // Of a path, the package (what follows the last `node_modules` or `site-packages`, or the last three parts) says what it is;
    // folders above it say where it is.
    let package =
        parts.iter().rposition(|part| matches!(*part, "node_modules" | "site-packages" | "dist-packages"));
    let start = package.map_or(parts.len().saturating_sub(3), |position| position + 1);
    // A module or a file that an interpreter runs; for other programs only the program's own name.
    let interpreted = script_position(&words).is_some();
    let telling = if interpreted { &parts[start..] } else { &parts[parts.len() - 1..] };
    telling.iter().any(|part| has_mcp_word(part))
}

fn has_mcp_word(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| matches!(word.to_ascii_lowercase().as_str(), "mcp" | "fastmcp" | "modelcontextprotocol"))
}

/// The word that says which program this is: the script of an interpreter, or the program itself.
fn program_word(words: &[String]) -> Option<&str> {
    match script_position(words) {
        Some(position) => words.get(position).map(String::as_str),
        None => words.first().map(String::as_str),
    }
}

/// File name without an ending that says a language.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, "js" | "mjs" | "cjs" | "ts" | "mts" | "py" | "rb" | "php" | "jar" | "dll" | "exe")) => {
            stem
        }
        _ => name,
    }
}

/// What a running server is called when no configuration names it: its package, or its script, or its program.
/// Other users choose these texts: nothing in the name steers a terminal.
pub fn derived_name(arguments: &[OsString]) -> String {
    name_of(&words(arguments)).chars().filter(|letter| !letter.is_control()).collect()
}

fn name_of(words: &[String]) -> String {
    let Some(program) = program_word(words) else { return String::new() };
    let parts: Vec<&str> = program.split('/').filter(|part| !part.is_empty()).collect();
    if let Some(position) = parts.iter().rposition(|part| *part == "node_modules") {
        match &parts[position + 1..] {
            [".bin", name, ..] => return (*name).to_owned(),
            [scope, name, ..] if scope.starts_with('@') => return (*name).to_owned(),
            [name, ..] => return (*name).to_owned(),
            [] => {}
        }
    }
    // `dist/index.js` tells nothing: the folder above the folders of every project does.
    let general = |part: &str| {
        matches!(
            stem(part),
            "index"
                | "main"
                | "server"
                | "app"
                | "cli"
                | "__main__"
                | "dist"
                | "build"
                | "src"
                | "lib"
                | "bin"
                | "out"
                | "."
                | ".."
        )
    };
    let telling = parts.iter().rev().find(|part| !general(part)).or(parts.last());
    // `java -jar x.jar`.
    let jar = words.iter().find(|word| word.ends_with(".jar")).filter(|_| family(program) == "java");
    stem(jar.map_or_else(|| telling.copied().unwrap_or(program), |jar| base_name(jar))).to_owned()
}

/// How surely a process was started from a command. Greater is surer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// It runs the package that the command names, but something else may have started it.
    Package,
    /// It is the command itself.
    Command,
}

/// Whether a process with these arguments was started, directly or by a launcher, from this command.
pub fn matches(command: &Expanded, arguments: &[Expanded], running: &[OsString]) -> Option<Match> {
    let words = words(running);
    let program = command.text();
    let (first, rest) = words.split_first()?;
    // As it was written, but for the path and the version of the program.
    if (base_name(first) == base_name(&program) || family(first) == family(&program)) && same(arguments, rest)
    {
        return Some(Match::Command);
    }
    // A script with `#!`: the interpreter stands before it.
    if let Some(position) = script_position(&words)
        && base_name(&words[position]) == base_name(&program)
        && same(arguments, &words[position + 1..])
    {
        return Some(Match::Command);
    }
    matches_package(&program, arguments, &words)
}

/// The command is `npx`, `uvx` or alike, and the process is it, or what it started.
fn matches_package(program: &str, arguments: &[Expanded], words: &[String]) -> Option<Match> {
    let package = Package::parse(program, arguments)?;
    let first = words[0].as_str();
    let launcher = script_position(words).map_or(family(first), |position| stem(base_name(&words[position])));
    let is_launcher = match package.kind {
        Kind::Node => matches!(
            launcher,
            "npm" | "npx" | "npx-cli" | "npm-cli" | "pnpm" | "pnpx" | "yarn" | "bunx" | "bun"
        ),
        Kind::Python => matches!(launcher, "uv" | "uvx" | "pipx"),
    };
    if is_launcher {
        // Options of the launcher may come and go: the package and all that follows it may not.
        let tail = words.iter().position(|word| package.specification.matches(word));
        return same(package.arguments, &words[tail? + 1..]).then_some(Match::Command);
    }
    let Some(position) = script_position(words) else {
        // A package may bring a compiled program: it carries the package's name.
        let is_package = base_name(first) == package.name() && same(package.arguments, &words[1..]);
        return is_package.then_some(Match::Package);
    };
    let name = package.specification.text();
    let name = without_version(&name);
    let script = words[position].as_str();
    let of_package = match package.kind {
        Kind::Node => {
            script.contains(&format!("/node_modules/{name}/"))
                || script.ends_with(&format!("/.bin/{}", package.name()))
        }
        Kind::Python => script == name || base_name(script) == name || script == name.replace('-', "_"),
    };
    (of_package && same(package.arguments, &words[position + 1..])).then_some(Match::Package)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Python,
}

/// What `npx` and alike were told to run.
struct Package<'entry> {
    kind: Kind,
    specification: &'entry Expanded,
    arguments: &'entry [Expanded],
}

impl<'entry> Package<'entry> {
    fn parse(program: &str, arguments: &'entry [Expanded]) -> Option<Self> {
        let texts: Vec<String> = arguments.iter().map(Expanded::text).collect();
        let words: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (kind, mut position) = match (base_name(program), words.as_slice()) {
            ("npx" | "bunx" | "pnpx", _) => (Kind::Node, 0),
            ("npm", ["exec" | "x", ..]) | ("pnpm" | "yarn", ["dlx" | "exec", ..]) | ("bun", ["x", ..]) => {
                (Kind::Node, 1)
            }
            ("uvx", _) => (Kind::Python, 0),
            ("pipx", ["run", ..]) | ("uv", ["run", ..]) => (Kind::Python, 1),
            ("uv", ["tool", "run", ..]) => (Kind::Python, 2),
            _ => return None,
        };
        loop {
            match *words.get(position)? {
                // Where the package comes from, not what is run.
                "-p" | "--package" | "-c" | "--from" | "--with" | "--python" | "--directory"
                | "--project" | "--spec" | "--index-url" | "--extra-index-url" | "--with-editable"
                | "--env-file" => position += 2,
                option if option.starts_with('-') => position += 1,
                _ => break,
            }
        }
        Some(Self { kind, specification: &arguments[position], arguments: &arguments[position + 1..] })
    }

    /// Name of the package without scope and version: most often also the name of its program.
    fn name(&self) -> String {
        base_name(without_version(&self.specification.text())).to_owned()
    }
}

/// `@scope/package` of `@scope/package@1.2`, `tool` of `tool==1.2` and of `tool[extra]`.
fn without_version(specification: &str) -> &str {
    let end = specification
        .char_indices()
        .skip(1)
        .find(|(_, letter)| matches!(letter, '@' | '=' | '[' | '<' | '>' | '~' | '!'));
    &specification[..end.map_or(specification.len(), |(position, _)| position)]
}

fn same(expected: &[Expanded], running: &[String]) -> bool {
    expected.len() == running.len()
        && expected.iter().zip(running).all(|(expected, running)| same_argument(expected, running))
}

/// Equal, or two paths of which one ends with the other: `./dist/index.js` and `/srv/app/dist/index.js`.
fn same_argument(expected: &Expanded, running: &str) -> bool {
    if expected.matches(running) {
        return true;
    }
    if !expected.unknown().is_empty() {
        return false;
    }
    let text = expected.text();
    // A bare word like `stdio` is no path; `server.py` may be.
    let is_path = |text: &str| text.contains('/') && !text.contains("://") || stem(text) != text;
    if !is_path(&text) || !is_path(running) {
        return false;
    }
    let plain = |text: &str| -> Option<std::path::PathBuf> {
        let path = Path::new(text);
        // `..` could only be resolved with the folder that the process started in.
        (!path.components().any(|part| part == Component::ParentDir))
            .then(|| path.components().filter(|part| *part != Component::CurDir).collect())
    };
    let (Some(expected), Some(running)) = (plain(&text), plain(running)) else { return false };
    match (expected.is_absolute(), running.is_absolute()) {
        (false, true) => running.ends_with(&expected),
        (true, false) => expected.ends_with(&running),
        _ => expected == running,
    }
}

#[cfg(test)]
mod tests;
