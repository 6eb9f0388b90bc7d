use proptest::prelude::*;

use super::*;

fn surroundings(folder: &Path) -> Surroundings {
    Surroundings {
        home: folder.join("home"),
        directory: folder.join("work/app/src"),
        variables: [("TOKEN".to_owned(), "t0".to_owned())].into(),
    }
}

fn write(folder: &Path, path: &str, text: &str) {
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

/// `client name: what` of every entry.
fn summary(found: &Configurations) -> Vec<String> {
    let line = |entry: &Entry| {
        let what = match &entry.transport {
            Transport::Stdio { command, arguments, .. } => {
                let words: Vec<_> = std::iter::once(command).chain(arguments).map(Expanded::text).collect();
                words.join(" ")
            }
            Transport::Url(url) => url.text(),
        };
        format!("{}: {}: {what}", entry.client, entry.name)
    };
    found.entries.iter().map(line).collect()
}

/// Each client's file in its own shape, as its documentation shows it.
#[test]
fn every_client_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let around = surroundings(folder);
    let local = around.directory.parent().unwrap().to_str().unwrap();
    write(
        folder,
        "home/.claude.json",
        &format!(
            r#"{{"numStartups": 3, "mcpServers": {{"user": {{"type": "stdio", "command": "npx", "args": ["-y", "u"], "env": {{}}}}}},
            "projects": {{"{local}": {{"allowedTools": [], "mcpServers": {{"local": {{"command": "l"}}}}}}, "/else": {{"mcpServers": {{"x": {{"command": "x"}}}}}}}}}}"#
        ),
    );
    write(
        folder,
        "work/app/.mcp.json",
        r#"{"mcpServers": {"project": {"type": "http", "url": "http://localhost:1/mcp"}}}"#,
    );
    write(
        folder,
        "work/.vscode/mcp.json",
        r#"{
            // Servers of this workspace.
            "inputs": [{"id": "key", "type": "promptString", "password": true,},],
            "servers": {"code": {"command": "node", "args": ["${workspaceFolder}/s.js", "${input:key}"],},},
        }"#,
    );
    write(folder, "home/.config/Code/User/mcp.json", r#"{"servers": {"code-user": {"command": "c"}}}"#);
    write(
        folder,
        "home/.config/Claude/claude_desktop_config.json",
        r#"{"mcpServers": {"desktop": {"command": "d"}}}"#,
    );
    write(
        folder,
        "work/app/src/.cursor/mcp.json",
        r#"{"mcpServers": {"cursor": {"command": "c", "args": ["${env:TOKEN}"]}}}"#,
    );
    write(
        folder,
        "home/.cursor/mcp.json",
        r#"{"mcpServers": {"cursor-user": {"url": "http://localhost:2/sse"}}}"#,
    );
    write(
        folder,
        "home/.codeium/windsurf/mcp_config.json",
        r#"{"mcpServers": {"surf": {"serverUrl": "https://s.example/mcp"}}}"#,
    );
    write(
        folder,
        "home/.gemini/settings.json",
        r#"{"theme": "x", "mcpServers": {"gem": {"httpUrl": "http://localhost:3/mcp"}}}"#,
    );
    let found = Configurations::read(None, &around).unwrap();
    assert_eq!(found.warnings, []);
    let workspace = folder.join("work");
    assert_eq!(
        summary(&found),
        [
            "Claude Code (local): local: l".to_owned(),
            "Claude Code (project): project: http://localhost:1/mcp".to_owned(),
            format!("VS Code (workspace): code: node {}/s.js ${{input:key}}", workspace.display()),
            "Cursor (project): cursor: c t0".to_owned(),
            "Claude Code (user): user: npx -y u".to_owned(),
            "Claude Desktop: desktop: d".to_owned(),
            "VS Code (user): code-user: c".to_owned(),
            "Cursor (user): cursor-user: http://localhost:2/sse".to_owned(),
            "Windsurf: surf: https://s.example/mcp".to_owned(),
            "Gemini CLI (user): gem: http://localhost:3/mcp".to_owned(),
        ]
    );
}

/// Local wins over project, project over user, and the nearest folder over those above.
#[test]
fn precedence() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let around = surroundings(folder);
    let directory = around.directory.to_str().unwrap();
    write(
        folder,
        "home/.claude.json",
        &format!(
            r#"{{"mcpServers": {{"a": {{"command": "user"}}}}, "projects": {{"{directory}": {{"mcpServers": {{"a": {{"command": "local"}}}}}}}}}}"#
        ),
    );
    write(folder, "work/.mcp.json", r#"{"mcpServers": {"a": {"command": "above"}}}"#);
    write(folder, "work/app/.mcp.json", r#"{"mcpServers": {"a": {"command": "near"}}}"#);
    let found = Configurations::read(None, &around).unwrap();
    let commands: Vec<_> = found
        .named("a")
        .map(|entry| match &entry.transport {
            Transport::Stdio { command, .. } => command.text(),
            Transport::Url(url) => url.text(),
        })
        .collect();
    assert_eq!(commands, ["local", "near", "above", "user"]);
}

/// A broken file and a broken entry are told and hide nothing else; the same server in two clients is listed once.
#[test]
fn broken_files_hide_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "home/.cursor/mcp.json", "{\"mcpServers\": {");
    write(
        folder,
        "work/.mcp.json",
        r#"{"mcpServers": {"bad": {"args": []}, "odd": {"command": "x", "args": [1]}, "good": {"command": "g"}}}"#,
    );
    write(folder, "home/.gemini/settings.json", r#"{"mcpServers": {"good": {"command": "g"}}}"#);
    std::fs::create_dir_all(folder.join("home/.codeium/windsurf/mcp_config.json")).unwrap();
    let found = Configurations::read(None, &surroundings(folder)).unwrap();
    assert_eq!(summary(&found), ["Claude Code (project): good: g"]);
    let warnings: Vec<_> = found.warnings.iter().map(|warning| warning.what.as_str()).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(warnings.contains(&"server `bad`: has neither `command` nor `url`"));
    assert!(warnings.contains(&"is not a regular file"));
}

/// A file that the user names may have any shape, and comes first; one that cannot be used is an error.
#[test]
fn named_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let around = surroundings(folder);
    let read = |text: &str| {
        write(folder, "named.json", text);
        Configurations::read(Some(&folder.join("named.json")), &around)
    };
    for text in [
        r#"{"mcpServers": {"a": {"command": "x"}}}"#,
        r#"{"servers": {"a": {"command": "x"}}}"#,
        r#"{"mcp": {"servers": {"a": {"command": "x"}}}}"#,
        r#"{"a": {"command": "x"}}"#,
    ] {
        assert_eq!(summary(&read(text).unwrap()), ["--config: a: x"], "{text}");
    }
    for text in ["", "[]", "{}", r#"{"mcpServers": {}}"#, r#"{"mcpServers": 3}"#, "{"] {
        assert!(read(text).is_err(), "{text}");
    }
    let missing = Configurations::read(Some(&folder.join("missing.json")), &around);
    assert!(missing.unwrap_err().to_string().contains("missing.json"));
}

/// A file beyond the limit is refused before it fills memory.
#[test]
fn huge_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("huge.json");
    std::fs::File::create(&file).unwrap().set_len(FILE_LIMIT + 1).unwrap();
    assert!(read_file(&file).unwrap_err().to_string().contains("16 MiB"));
}

proptest! {
    /// Any text in the place of a configuration is survived.
    #[test]
    fn any_text_is_survived(text in r#"([{}\[\],:"]|"mcpServers":|"a":|//|/\*|[ -~]){0,60}"#) {
        let mut found = Configurations::default();
        found.add(Path::new("/f"), &text, Shape::Any, "--config", &Surroundings::default(), Path::new("/"));
    }
}
