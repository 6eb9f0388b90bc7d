//! Client configurations: which MCP servers a user has given names to.
//!
//! Each client keeps them in files of its own. The shapes differ little: an object of servers by name, under `mcpServers`,
//! or `servers` in VS Code. They are JSON, which people write with comments and trailing commas.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use super::expand::{Expanded, Surroundings};
use super::launch::Caller;

/// The largest file that is read, in bytes: `~/.claude.json` also holds a history, of some megabytes.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;

/// [`Entry::client`] of what comes from the file that the user named.
pub const NAMED_FILE: &str = "--config";

/// How a client reaches a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The client starts it and talks over its standard input and output.
    Stdio {
        /// Program.
        command: Expanded,
        /// Its arguments.
        arguments: Vec<Expanded>,
        /// Variables that are added to the environment.
        environment: BTreeMap<String, Expanded>,
        /// The folder that it runs in, if the configuration says so.
        directory: Option<Expanded>,
    },
    /// It runs on its own and is reached over HTTP.
    Url(Expanded),
}

/// A server that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whose configuration: `Claude Code (project)`.
    pub client: &'static str,
    /// The file that names it.
    pub file: PathBuf,
    /// How it is reached.
    pub transport: Transport,
}

/// A file, or a part of one, that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.file.display(), self.what)
    }
}

/// All servers that configurations name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configurations {
    /// Servers; of two with one name the first is the one that counts.
    pub entries: Vec<Entry>,
    /// What could not be used.
    pub warnings: Vec<Warning>,
}

/// A configuration that the user asked for cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the configuration {0}")]
pub struct ConfigError(pub Warning);

impl Surroundings {
    /// Of this process. Under sudo the home folder is the one of the user who called it.
    pub fn of_this_process() -> Self {
        let own_home = || std::env::home_dir().unwrap_or_default();
        Self {
            home: Caller::from_sudo().map_or_else(own_home, |caller| caller.home),
            directory: std::env::current_dir().unwrap_or_default(),
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        }
    }
}

impl Configurations {
    /// Reads the file that the user named, if any, and the configurations of all known clients. A file of a client that is
    /// missing is nothing special; one that is broken is a warning.
    ///
    /// # Errors
    /// When the file that the user named cannot be used.
    pub fn read(named: Option<&Path>, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        if let Some(file) = named {
            let warn = |what: String| ConfigError(Warning { file: file.to_owned(), what });
            let text = read_file(file).map_err(|error| warn(error.to_string()))?;
            found.add(file, &text, Shape::Any, NAMED_FILE, surroundings, surroundings.directory.as_path());
            if found.entries.is_empty() {
                return Err(found
                    .warnings
                    .pop()
                    .map_or_else(|| warn("names no MCP servers".to_owned()), ConfigError));
            }
        }
        for place in places(surroundings) {
            match read_file(&place.file) {
                Ok(text) => {
                    found.add(&place.file, &text, place.shape, place.client, surroundings, &place.workspace);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => found.warn(&place.file, error.to_string()),
            }
        }
        // The same server, named the same way in several clients, is one.
        let mut unique: Vec<Entry> = Vec::new();
        for entry in found.entries {
            if !unique.iter().any(|other| other.name == entry.name && other.transport == entry.transport) {
                unique.push(entry);
            }
        }
        found.entries = unique;
        Ok(found)
    }

    /// Entries of this name, the one that counts first.
    pub fn named<'this>(&'this self, name: &'this str) -> impl Iterator<Item = &'this Entry> {
        self.entries.iter().filter(move |entry| entry.name == name)
    }

    fn add(
        &mut self,
        file: &Path,
        text: &str,
        shape: Shape,
        client: &'static str,
        surroundings: &Surroundings,
        workspace: &Path,
    ) {
        let root: Value =
            match jsonc_parser::parse_to_serde_value(text, &jsonc_parser::ParseOptions::default()) {
                Ok(root) => root,
                Err(error) => return self.warn(file, format!("is not JSON: {error}")),
            };
        for servers in shape.servers(&root, surroundings) {
            let Some(servers) = servers.as_object() else {
                self.warn(file, "its list of servers is not an object of servers by name".to_owned());
                continue;
            };
            for (name, value) in servers {
                match transport(value, surroundings, workspace) {
                    Ok(transport) => {
                        self.entries.push(Entry {
                            name: name.clone(),
                            client,
                            file: file.to_owned(),
                            transport,
                        });
                    }
                    Err(what) => self.warn(file, format!("server `{name}`: {what}")),
                }
            }
        }
    }

    fn warn(&mut self, file: &Path, what: String) {
        // `~/.claude.json` is looked at twice.
        let warning = Warning { file: file.to_owned(), what };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Where servers stand in a file.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// `{"mcpServers": {...}}`: most clients.
    McpServers,
    /// `{"projects": {"/folder": {"mcpServers": {...}}}}` of `~/.claude.json`, for this folder and those above it.
    ClaudeProjects,
    /// `{"servers": {...}}`: VS Code's own file.
    Servers,
    /// `{"mcp": {"servers": {...}}}`: VS Code's settings.
    Settings,
    /// Any of them, for a file that the user names.
    Any,
}

impl Shape {
    fn servers<'root>(self, root: &'root Value, surroundings: &Surroundings) -> Vec<&'root Value> {
        match self {
            Self::McpServers => root.get("mcpServers").into_iter().collect(),
            Self::Servers => root.get("servers").into_iter().collect(),
            Self::Settings => root.pointer("/mcp/servers").into_iter().collect(),
            Self::ClaudeProjects => {
                let projects = root.get("projects").and_then(Value::as_object);
                let project = |folder: &Path| projects?.get(folder.to_str()?)?.get("mcpServers");
                surroundings.directory.ancestors().filter_map(project).collect()
            }
            Self::Any => {
                let shapes = [Self::ClaudeProjects, Self::McpServers, Self::Servers, Self::Settings];
                let found: Vec<_> =
                    shapes.into_iter().flat_map(|shape| shape.servers(root, surroundings)).collect();
                // Also the bare object of servers by name, as documentation of servers shows it.
                let bare = root
                    .as_object()
                    .is_some_and(|servers| !servers.is_empty() && servers.values().all(is_server));
                if found.is_empty() && bare { vec![root] } else { found }
            }
        }
    }
}

fn is_server(value: &Value) -> bool {
    ["command", "url", "serverUrl", "httpUrl"]
        .into_iter()
        .any(|key| value.get(key).is_some_and(Value::is_string))
}

struct Place {
    file: PathBuf,
    shape: Shape,
    client: &'static str,
    workspace: PathBuf,
}

/// Every file that is looked at: of one client, those of a project before those of the user.
fn places(surroundings: &Surroundings) -> Vec<Place> {
    let home = &surroundings.home;
    let of_user = |path: &str, shape, client| Place {
        file: home.join(path),
        shape,
        client,
        workspace: surroundings.directory.clone(),
    };
    let mut places = vec![of_user(".claude.json", Shape::ClaudeProjects, "Claude Code (local)")];
    let project = [
        (".mcp.json", Shape::McpServers, "Claude Code (project)"),
        (".vscode/mcp.json", Shape::Servers, "VS Code (workspace)"),
        (".cursor/mcp.json", Shape::McpServers, "Cursor (project)"),
        (".gemini/settings.json", Shape::McpServers, "Gemini CLI (project)"),
    ];
    for (path, shape, client) in project {
        for folder in surroundings.directory.ancestors() {
            // The home folder's own `.cursor` and `.gemini` are the user's.
            if folder != home || path == ".mcp.json" || path == ".vscode/mcp.json" {
                places.push(Place { file: folder.join(path), shape, client, workspace: folder.to_owned() });
            }
        }
    }
    places.push(of_user(".claude.json", Shape::McpServers, "Claude Code (user)"));
    places.push(of_user(".config/Claude/claude_desktop_config.json", Shape::McpServers, "Claude Desktop"));
    places.push(of_user(".config/Code/User/mcp.json", Shape::Servers, "VS Code (user)"));
    places.push(of_user(".config/Code/User/settings.json", Shape::Settings, "VS Code (settings)"));
    places.push(of_user(".cursor/mcp.json", Shape::McpServers, "Cursor (user)"));
    places.push(of_user(".codeium/windsurf/mcp_config.json", Shape::McpServers, "Windsurf"));
    places.push(of_user(".gemini/settings.json", Shape::McpServers, "Gemini CLI (user)"));
    places
}

fn read_file(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    // Without waiting: a named pipe in its place must not hold the profiler.
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    let refuse = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if !metadata.is_file() {
        return Err(refuse("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(refuse(format!("is larger than {} MiB", FILE_LIMIT / 1024 / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8".to_owned()))
}

fn transport(value: &Value, surroundings: &Surroundings, workspace: &Path) -> Result<Transport, String> {
    let Some(entry) = value.as_object() else { return Err("is not an object".to_owned()) };
    let expand = |text: &str| Expanded::parse(text, surroundings, workspace);
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    if let Some(command) = text("command") {
        return Ok(Transport::Stdio {
            command: expand(command),
            arguments: arguments(entry)?.into_iter().map(expand).collect(),
            environment: environment(entry)?
                .into_iter()
                .map(|(name, value)| (name, expand(&value)))
                .collect(),
            directory: text("cwd").map(expand),
        });
    }
    // Windsurf says `serverUrl`; Gemini says `httpUrl` for HTTP and `url` for SSE.
    match ["url", "serverUrl", "httpUrl"].into_iter().find_map(text) {
        Some(url) => Ok(Transport::Url(expand(url))),
        None => Err("has neither `command` nor `url`".to_owned()),
    }
}

fn arguments(entry: &Map<String, Value>) -> Result<Vec<&str>, String> {
    match entry.get("args") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().ok_or_else(|| "`args` holds something other than texts".to_owned()))
            .collect(),
        Some(_) => Err("`args` is not a list".to_owned()),
    }
}

fn environment(entry: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    match entry.get("env") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(variables)) => variables
            .iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) => Some(Ok((name.clone(), text.clone()))),
                Value::Number(number) => Some(Ok((name.clone(), number.to_string()))),
                Value::Bool(truth) => Some(Ok((name.clone(), truth.to_string()))),
                // VS Code: null removes a variable, which no client is sure to have set.
                Value::Null => None,
                _ => Some(Err(format!("`env` has a value for {name} that is no text"))),
            })
            .collect(),
        Some(_) => Err("`env` is not an object".to_owned()),
    }
}

#[cfg(test)]
mod tests;
