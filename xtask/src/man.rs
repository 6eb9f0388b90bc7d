//! `cargo xtask man`: the manual pages and shell completions, from the command line's own definition.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use clap_complete::Shell;
use mcp_profiler::cli::Cli;

use crate::command::workspace;

/// Options of `cargo xtask man`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail when a committed file is stale.
    #[arg(long)]
    check: bool,
}

/// Writes or checks docs/man.
pub(crate) fn man(options: &Options) -> Result<()> {
    let folder = workspace().join("docs/man");
    let files = files()?;
    if options.check {
        let stale: Vec<&str> = files
            .iter()
            .filter(|(name, bytes)| std::fs::read(folder.join(name)).ok().as_ref() != Some(*bytes))
            .map(|(name, _)| name.as_str())
            .collect();
        if !stale.is_empty() {
            bail!("stale in docs/man: {}. Run `cargo xtask man` and commit", stale.join(", "));
        }
        println!("docs/man is what the command line gives.");
        return Ok(());
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, bytes) in &files {
        std::fs::write(folder.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
    }
    println!("{} files in {}", files.len(), folder.display());
    Ok(())
}

/// File name -> contents.
fn files() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut command = Cli::command();
    command.build();
    let mut files = BTreeMap::from([("mcp-profiler.1".to_owned(), page(&command)?)]);
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "mcp-profiler", &mut script);
        let name: PathBuf = match shell {
            Shell::Fish => "mcp-profiler.fish".into(),
            Shell::Zsh => "_mcp-profiler".into(),
            _ => "mcp-profiler.bash".into(),
        };
        files.insert(name.display().to_string(), script);
    }
    Ok(files)
}

/// One page: the program, then a section for each command with its options and example.
fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let main = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    main.render_title(&mut page)?;
    main.render_name_section(&mut page)?;
    main.render_synopsis_section(&mut page)?;
    main.render_description_section(&mut page)?;
    main.render_options_section(&mut page)?;
    if command.get_after_help().is_some() || command.get_after_long_help().is_some() {
        main.render_extra_section(&mut page)?;
    }
    for (title, subcommand) in sections(command, "") {
        let mut section = Vec::new();
        let manual = clap_mangen::Man::new(subcommand.clone());
        manual.render_synopsis_section(&mut section)?;
        manual.render_description_section(&mut section)?;
        manual.render_options_section(&mut section)?;
        if subcommand.get_after_help().is_some() || subcommand.get_after_long_help().is_some() {
            manual.render_extra_section(&mut section)?;
        }
        // Each renderer starts its sections with `.SH`; inside a command they are subsections.
        let section = String::from_utf8(section)?.replace(".SH ", ".SS ");
        page.extend(format!(".SH \"COMMAND {title}\"\n").bytes());
        page.extend(section.bytes());
    }
    Ok(page)
}

/// The commands below one, each before those below it, with their titles.
fn sections<'command>(
    command: &'command clap::Command,
    above: &str,
) -> Vec<(String, &'command clap::Command)> {
    let shown =
        command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    shown
        .flat_map(|command| {
            let title = format!("{above}{}", command.get_name().to_uppercase());
            let below = sections(command, &format!("{title} "));
            std::iter::once((title, command)).chain(below)
        })
        .collect()
}
