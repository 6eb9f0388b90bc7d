use std::path::Path;

use super::super::process::TableEntry;
use super::*;
use crate::target::config::Expanded;

fn table(processes: &[(u32, u32, &[&str])]) -> ProcessTable {
    let entry = |(pid, parent, words): &(u32, u32, &[&str])| {
        (*pid, TableEntry { parent: *parent, arguments: words.iter().map(OsString::from).collect() })
    };
    ProcessTable { processes: processes.iter().map(entry).collect() }
}

fn entry(name: &str, words: &[&str]) -> Entry {
    let expand = |text: &&str| Expanded::parse(text, &Surroundings::default(), Path::new("/"));
    Entry {
        name: name.to_owned(),
        client: "Cursor (user)",
        file: "/home/ann/.cursor/mcp.json".into(),
        transport: Transport::Stdio {
            command: expand(&words[0]),
            arguments: words[1..].iter().map(expand).collect(),
            environment: Default::default(),
            directory: None,
        },
    }
}

/// A client with two servers, started by npx and by uvx; PIDs as a real machine showed them.
const CLIENT: &[(u32, u32, &[&str])] = &[
    (1, 0, &["init"]),
    (100, 1, &["/usr/bin/cursor"]),
    (12636, 100, &["npm exec @modelcontextprotocol/server-everything stdio"]),
    (12758, 12636, &["sh", "-c", "'mcp-server-everything' stdio"]),
    (12759, 12758, &["node", "/root/.npm/_npx/5b/node_modules/.bin/mcp-server-everything", "stdio"]),
    (12640, 100, &["/opt/uv", "tool", "uvx", "mcp-server-time", "--local-timezone", "UTC"]),
    (
        12754,
        12640,
        &["/root/.cache/uv/x/bin/python", "/root/.cache/uv/x/bin/mcp-server-time", "--local-timezone", "UTC"],
    ),
];

/// Through npm and its shell to node, through uv to Python, and not past a launcher with two children.
#[test]
fn descends_through_launchers() {
    let processes = table(CLIENT);
    assert_eq!(descend(&processes, 12636), 12759);
    assert_eq!(descend(&processes, 12758), 12759);
    assert_eq!(descend(&processes, 12759), 12759);
    assert_eq!(descend(&processes, 12640), 12754);
    assert_eq!(descend(&processes, 100), 100);
    let two = table(&[(5, 1, &["sh", "-c", "a & b"]), (6, 5, &["a"]), (7, 5, &["b"])]);
    assert_eq!(descend(&two, 5), 5);
    let circle = table(&[(5, 6, &["sh", "-c", "a"]), (6, 5, &["sh", "-c", "b"])]);
    assert!([5, 6].contains(&descend(&circle, 5)));
}

/// Configured servers take the name of their entry; each launcher and its server are one.
#[test]
fn running_servers_are_grouped() {
    let mut processes = CLIENT.to_vec();
    processes.push((300, 1, &["sh", "-c", "node /srv/my-mcp/index.js"]));
    processes.push((301, 300, &["node", "/srv/my-mcp/index.js"]));
    let processes = table(&processes);
    let configurations = Configurations {
        entries: vec![
            entry("clock", &["uvx", "mcp-server-time", "--local-timezone", "UTC"]),
            entry("everything", &["npx", "-y", "@modelcontextprotocol/server-everything", "stdio"]),
            entry("idle", &["npx", "idle"]),
        ],
        warnings: Vec::new(),
    };
    let found: Vec<_> = running_servers(&processes, &configurations)
        .into_iter()
        .map(|(server, index)| (server.name, server.pid, server.root, server.pids, index))
        .collect();
    assert_eq!(
        found,
        [
            ("clock".to_owned(), 12754, 12640, vec![12640, 12754], Some(0)),
            ("everything".to_owned(), 12759, 12636, vec![12636, 12758, 12759], Some(1)),
            ("my-mcp".to_owned(), 301, 300, vec![300, 301], None),
        ]
    );
}

/// Without any configuration the same servers are found by their looks, launchers included.
#[test]
fn servers_without_configuration() {
    let found: Vec<_> = running_servers(&table(CLIENT), &Configurations::default())
        .into_iter()
        .map(|(server, _)| (server.name, server.pid, server.root))
        .collect();
    assert_eq!(
        found,
        [("mcp-server-time".to_owned(), 12754, 12640), ("mcp-server-everything".to_owned(), 12759, 12636)]
    );
}

/// A process that runs the same package by another command is left to the entry that names that command.
#[test]
fn the_surer_claim_wins() {
    let path = "/srv/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let mut processes = CLIENT.to_vec();
    let direct: [&str; 3] = ["node", path, "stdio"];
    processes.push((400, 1, &direct));
    let processes = table(&processes);
    let npx = entry("a-npx", &["npx", "-y", "@modelcontextprotocol/server-everything", "stdio"]);
    let node = entry("b-node", &["node", path, "stdio"]);
    assert_eq!(roots_of(&npx, &processes).unwrap().pids, [12636]);
    let only_direct = table(&[(400, 1, &direct)]);
    assert_eq!(roots_of(&npx, &only_direct).unwrap().pids, [400]);
    let configurations = Configurations { entries: vec![npx, node], warnings: Vec::new() };
    let found = running_servers(&only_direct, &configurations);
    assert_eq!(
        found.iter().map(|(server, index)| (server.name.as_str(), *index)).collect::<Vec<_>>(),
        [("b-node", Some(1))]
    );
}

/// A terminal's shell is no part of the server that was started in it.
#[test]
fn interactive_shells_stay_out() {
    let processes = table(&[(10, 1, &["-bash"]), (11, 10, &["node", "/srv/my-mcp/index.js"])]);
    assert_eq!(outermost_launcher(&processes, 11, &[]), 11);
}

/// The name that was most likely meant comes first.
#[test]
fn nearest_names_first() {
    let known = ["zeta", "filesystem", "everything", "file"].map(str::to_owned).to_vec();
    assert_eq!(nearest_first("filesytem", known.clone())[..2], ["file", "filesystem"]);
    assert_eq!(nearest_first("every", known)[0], "everything");
}

/// A placeholder that is not known stops a launch and is named; else the plan is the entry.
#[test]
fn launch_plans() {
    let mut known = entry("a", &["sh", "-c", "true"]);
    known.client = crate::target::config::NAMED_FILE;
    let plan = launch_plan(&known).unwrap();
    assert_eq!((plan.command, plan.arguments), ("sh".into(), vec!["-c".into(), "true".into()]));
    let error = launch_plan(&entry("a", &["x", "${input:token}"])).unwrap_err().to_string();
    assert!(error.contains("${input:token}") && error.contains("/home/ann/.cursor/mcp.json"), "{error}");
}

/// A URL of another machine and one where nothing listens are told apart.
#[test]
fn urls_that_lead_nowhere() {
    let at = |url: &str| {
        let transport = Transport::Url(Expanded::literal(url));
        roots_of(&Entry { transport, ..entry("web", &["x"]) }, &table(&[])).unwrap_err()
    };
    assert!(matches!(at("https://mcp.example.com/mcp"), ResolveError::Remote { .. }));
    assert!(matches!(at("http://localhost:1/mcp"), ResolveError::NotListening { port: 1, .. }));
    assert!(matches!(at("nonsense"), ResolveError::BadUrl { .. }));
}

/// Processes that cannot be profiled are refused with a reason.
#[test]
fn unfit_processes_are_refused() {
    let own = std::process::id();
    assert!(matches!(check(own), Err(ResolveError::Itself(pid)) if pid == own));
    assert!(matches!(check(0x3fff_ffff), Err(ResolveError::Process(ProcessError::NotFound(_)))));
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let zombie = Process::open(child.id()).unwrap();
    while !zombie.stat().unwrap().ended() {
        std::thread::yield_now();
    }
    assert!(matches!(check(child.id()), Err(ResolveError::Zombie(_))));
    child.wait().unwrap();
    // Where this test may see one: kthreadd of the host.
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        assert!(matches!(check(2), Err(ResolveError::KernelThread(2))));
    }
}

/// The error for several instances names each with its ID.
#[test]
fn ambiguity_lists_every_instance() {
    let instance = |pid| Instance { pid, uptime: Duration::from_secs(75), command: "node s.js".to_owned() };
    let error = ResolveError::Ambiguous { name: "a".to_owned(), instances: vec![instance(5), instance(70)] };
    insta::assert_snapshot!(error, @"
    2 instances of `a` are running; choose one with --pid:
      --pid 5        up 1m 15s  node s.js
      --pid 70       up 1m 15s  node s.js
    ");
}
