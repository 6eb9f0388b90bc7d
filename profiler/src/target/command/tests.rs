use proptest::prelude::*;

use super::super::config::Surroundings;
use super::*;

fn os(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn entry(words: &[&str]) -> (Expanded, Vec<Expanded>) {
    let expand = |text: &&str| Expanded::parse(text, &Surroundings::default(), Path::new("/"));
    (expand(&words[0]), words[1..].iter().map(expand).collect())
}

fn is_from(configured: &[&str], running: &[&str]) -> bool {
    let (command, arguments) = entry(configured);
    matches(&command, &arguments, &os(running)).is_some()
}

/// Interpreters may have another path or version; arguments may not differ.
#[test]
fn direct_commands_match() {
    assert!(is_from(&["node", "/a/s.js", "stdio"], &["/usr/bin/node", "/a/s.js", "stdio"]));
    assert!(is_from(
        &["python", "-m", "mcp_server_time"],
        &["/opt/venv/bin/python3.11", "-m", "mcp_server_time"]
    ));
    assert!(is_from(&["node", "./dist/index.js"], &["node", "/srv/app/dist/index.js"]));
    assert!(is_from(&["server", "--token", "${UNSET}"], &["/bin/server", "--token", "abc"]));
    assert!(!is_from(&["node", "/a/s.js", "stdio"], &["node", "/a/s.js"]));
    assert!(!is_from(&["node", "/a/s.js"], &["node", "/b/s.js"]));
    assert!(!is_from(&["node", "../x/s.js"], &["node", "/srv/app/s.js"]));
    assert!(!is_from(&["node", "http://a/b"], &["node", "/b"]));
    assert!(!is_from(&["node"], &[]));
}

/// A script that names its interpreter in its first line runs as that interpreter.
#[test]
fn scripts_match_behind_their_interpreter() {
    let configured = ["mcp-server-time", "--local-timezone", "UTC"];
    assert!(is_from(&configured, &["/v/bin/python", "/v/bin/mcp-server-time", "--local-timezone", "UTC"]));
    assert!(is_from(&["mcp-server-everything"], &["node", "--no-warnings", "/n/.bin/mcp-server-everything"]));
    // The inspector, which is given the server's command, is not the server.
    assert!(!is_from(
        &["node", "build/index.js"],
        &["node", "/n/inspector/cli.js", "node", "build/index.js"]
    ));
}

/// `npx`: its own rewritten title, its first second of life, and the package that it runs.
#[test]
fn npx_matches() {
    let configured = ["npx", "-y", "@modelcontextprotocol/server-everything", "stdio"];
    for running in [
        &["npm exec @modelcontextprotocol/server-everything stdio"][..],
        &["node", "/usr/bin/npx", "-y", "@modelcontextprotocol/server-everything", "stdio"],
        &["node", "/home/a/.npm/_npx/1/node_modules/.bin/server-everything", "stdio"],
        &["node", "/x/node_modules/@modelcontextprotocol/server-everything/dist/index.js", "stdio"],
    ] {
        assert!(is_from(&configured, running), "{running:?}");
    }
    for running in [
        &["npm exec @modelcontextprotocol/server-everything sse"][..],
        &["npm exec @modelcontextprotocol/server-memory stdio"],
        &["node", "/x/node_modules/@modelcontextprotocol/server-everything/dist/index.js"],
        &["vim", "@modelcontextprotocol/server-everything", "stdio"],
    ] {
        assert!(!is_from(&configured, running), "{running:?}");
    }
    assert!(is_from(&["npx", "-y", "server@1.2.3"], &["node", "/x/node_modules/server/index.js"]));
}

/// What npx itself runs is surer than what runs the same package.
#[test]
fn the_command_is_surer_than_its_package() {
    let (command, arguments) = entry(&["npx", "-y", "server", "a"]);
    let of = |running: &[&str]| matches(&command, &arguments, &os(running));
    assert_eq!(of(&["npm exec server a"]), Some(Match::Command));
    assert_eq!(of(&["node", "/x/node_modules/server/index.js", "a"]), Some(Match::Package));
    assert_eq!(of(&["node", "/x/node_modules/other/index.js", "a"]), None);
    assert!(Match::Command > Match::Package);
}

/// `uvx`: `uv` and the Python program that it runs.
#[test]
fn uvx_matches() {
    let configured = ["uvx", "mcp-server-git", "-r", "/repo"];
    assert!(is_from(&configured, &["/usr/bin/uv", "tool", "uvx", "mcp-server-git", "-r", "/repo"]));
    assert!(is_from(&configured, &["/c/bin/python", "/c/bin/mcp-server-git", "-r", "/repo"]));
    assert!(!is_from(&configured, &["/c/bin/python", "/c/bin/mcp-server-git", "-r", "/other"]));
    let from = ["uvx", "--from", "git+https://x/y", "tool@latest", "a"];
    assert!(is_from(&from, &["/c/bin/python", "/c/bin/tool", "a"]));
}

/// What only starts something else is told from what works.
#[test]
fn launchers() {
    for launcher in [
        &["npm exec @modelcontextprotocol/server-everything stdio"][..],
        &["sh", "-c", "'mcp-server-everything' stdio"],
        &["/bin/bash", "start.sh"],
        &["-bash"],
        &["/v/bin/uv", "tool", "uvx", "mcp-server-time"],
        &["node", "/usr/bin/npx", "-y", "x"],
        &["/usr/bin/python3", "/usr/bin/pipx", "run", "x"],
        &["python3", "-m", "pipx", "run", "x"],
        &["node", "/x/node_modules/.bin/tsx", "s.ts"],
        &["go", "run", "."],
        &["tini", "--", "node", "s.js"],
        &["/usr/bin/mcp-profiler", "record", "--", "node", "s.js"],
    ] {
        assert!(is_launcher(&os(launcher)), "{launcher:?}");
    }
    for worker in
        [&["node", "/x/.bin/mcp-server-everything"][..], &["python", "s.py"], &["go"], &["./server"], &[]]
    {
        assert!(!is_launcher(&os(worker)), "{worker:?}");
    }
}

/// Servers are found by whole words, and neither launchers, editors of their files nor clients are servers.
#[test]
fn servers_by_their_looks() {
    for server in [
        &["node", "/n/.bin/mcp-server-everything", "stdio"][..],
        &["node", "/x/node_modules/@modelcontextprotocol/server-memory/dist/index.js"],
        &["python", "-m", "mcp_server_time"],
        &["/v/bin/python3", "/v/bin/mcp", "run", "s.py"],
        &["python3", "/srv/weather_mcp.py"],
        &["/opt/rust-mcp-filesystem", "/data"],
        &["node", "/srv/my-mcp/dist/index.js"],
    ] {
        assert!(looks_like_server(&os(server)), "{server:?}");
    }
    for other in [
        &["npm exec @modelcontextprotocol/server-everything"][..],
        &["vim", "mcp-server.py"],
        &["tail", "-f", "/var/log/mcp.log"],
        &["mcpherson"],
        &["/usr/bin/mcp-profiler", "record", "--", "node", "mcp.js"],
        &["node", "/home/mcp/projects/shop/web/dist/index.js"],
        &["node", "/x/node_modules/@modelcontextprotocol/inspector/cli/build/cli.js"],
        &[],
    ] {
        assert!(!looks_like_server(&os(other)), "{other:?}");
    }
}

/// Names come from the package or the script, not from `dist/index.js`.
#[test]
fn names() {
    let name = |words: &[&str]| derived_name(&os(words));
    assert_eq!(
        name(&["node", "/x/node_modules/@modelcontextprotocol/server-memory/dist/index.js"]),
        "server-memory"
    );
    assert_eq!(
        name(&["node", "/x/node_modules/.bin/mcp-server-everything", "stdio"]),
        "mcp-server-everything"
    );
    assert_eq!(name(&["node", "/srv/my-mcp/dist/index.js"]), "my-mcp");
    assert_eq!(name(&["python", "-m", "mcp_server_time"]), "mcp_server_time");
    assert_eq!(name(&["/v/bin/python3", "/v/bin/mcp-server-git"]), "mcp-server-git");
    assert_eq!(name(&["/usr/bin/java", "-jar", "/srv/demo-mcp.jar"]), "demo-mcp");
    assert_eq!(name(&["/opt/toolbox", "--stdio"]), "toolbox");
    assert_eq!(name(&["python", "/srv/evil\u{1b}[2J_mcp.py"]), "evil[2J_mcp");
    assert_eq!(name(&[]), "");
}

proptest! {
    /// Any arguments are survived: they are chosen by other users.
    #[test]
    fn any_arguments_are_survived(
        configured in prop::collection::vec("(npx|uvx|-p|node|@|[a-z/.@-]{0,8})", 1..5),
        running in prop::collection::vec("(npm exec |node|uv|sh|-m|--|[a-z/.@-]{0,8})", 0..5),
    ) {
        let configured: Vec<&str> = configured.iter().map(String::as_str).collect();
        let running: Vec<&str> = running.iter().map(String::as_str).collect();
        is_from(&configured, &running);
        is_launcher(&os(&running));
        looks_like_server(&os(&running));
        derived_name(&os(&running));
    }

    /// A process that was started exactly as configured is always found.
    #[test]
    fn the_command_itself_matches(words in prop::collection::vec("[a-z/.-]{1,8}", 1..5)) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        prop_assert!(is_from(&words, &words));
    }
}
