//! A suite's kernel from Debian's archive. apt is given folders of its own: nothing changes on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{find_in_path, output_of};

const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the suite's newest kernel, in the flavour with the fewest drivers.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The suite's kernel, bootable. It is fetched once and then kept in `folder`.
pub(super) fn kernel(suite: &str, folder: &Path) -> Result<PathBuf> {
    let kernel = folder.join("vmlinuz");
    if kernel.is_file() {
        return Ok(kernel);
    }
    ensure!(
        find_in_path("apt-get").is_some() && Path::new(KEYS).is_file(),
        "kernels come from Debian's archive through apt-get and {KEYS}: run this on Debian"
    );
    let apt = Apt::new(folder, suite)?;
    eprintln!("Fetching the kernel of Debian's {suite}");
    output_of(&mut apt.command("apt-get", &["update", "--quiet"]))?;
    let package = kernel_package(|package| apt.dependencies(package))?;
    let unpacked = tempfile::tempdir_in(folder)?;
    output_of(apt.command("apt-get", &["download", "--quiet", &package]).current_dir(&unpacked))?;
    let file = only_file(unpacked.path())?;
    output_of(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(unpacked.path()))?;
    let found = find_kernel(unpacked.path())?.with_context(|| format!("{package} holds no kernel"))?;
    fs::rename(&found, &kernel)?;
    Ok(kernel)
}

/// apt for one suite.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        let folder = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        // A mirror may lag behind; that its index is Debian's is checked all the same.
        let source = format!("deb [check-valid-until=no signed-by={KEYS}] {} {suite} main\n", mirror());
        fs::write(folder.join("sources.list"), source)?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let folder = |name: &str| self.folder.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::SourceList", folder("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::Etc::Preferences", "/dev/null".to_owned()),
            ("Dir::Etc::PreferencesParts", "/dev/null".to_owned()),
            ("Dir::State::Lists", folder("lists")),
            ("Dir::State::Status", "/dev/null".to_owned()),
            ("Dir::Cache", folder("cache")),
            ("Acquire::Languages", "none".to_owned()),
            // Its usual user for downloads may not be allowed to write here.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("--option").arg(format!("{option}={value}"));
        }
        command.args(arguments);
        command
    }

    /// Packages that the newest version of a package needs.
    fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = output_of(&mut self.command("apt-cache", &["show", "--no-all-versions", package]))?;
        Ok(dependencies_in(&text))
    }
}

/// Debian's archive where this machine gets it from.
fn mirror() -> String {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let addresses = output_of(&mut targets).unwrap_or_default();
    let address =
        addresses.lines().map(|line| line.trim_end_matches('/')).find(|line| line.ends_with("/debian"));
    address.unwrap_or(ARCHIVE).to_owned()
}

/// The package that the kernel itself is in. From Linux 7.0 on Debian's `linux-image-*` only depends on it.
fn kernel_package(dependencies: impl Fn(&str) -> Result<Vec<String>>) -> Result<String> {
    let named = |package: &str, prefix: &str| {
        Ok::<_, anyhow::Error>(dependencies(package)?.into_iter().find(|name| name.starts_with(prefix)))
    };
    let image = named(PACKAGE, "linux-image-")?.with_context(|| format!("{PACKAGE} depends on no kernel"))?;
    Ok(named(&image, "linux-binary-")?.unwrap_or(image))
}

/// Names in the `Depends` of a package's description, without versions; of alternatives the first.
fn dependencies_in(text: &str) -> Vec<String> {
    let names = text.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = names.split(',').filter_map(|name| name.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(folder)?.next().context("apt-get downloaded nothing")?;
    Ok(entry?.path())
}

/// `boot/vmlinuz-*`, or `usr/lib/modules/*/vmlinuz`.
fn find_kernel(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_kernel(&path)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old kernels are in the package that is depended on, new ones in a further one.
    #[test]
    fn kernels_are_found_through_dependencies() {
        let package = |packages: &[(&str, &str)]| {
            kernel_package(|package| {
                let found = packages.iter().find(|(name, _)| *name == package);
                Ok(found.map(|(_, text)| dependencies_in(text)).unwrap_or_default())
            })
        };
        let old = [(PACKAGE, "Package: x\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n")];
        assert_eq!(package(&old).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        let new = [
            (
                PACKAGE,
                "Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13-cloud-amd64 (= 7.2.13-1)",
            ),
            (
                "linux-image-7.2.13-cloud-amd64",
                "Depends: dracut | initramfs-tools, linux-binary-7.2.13 (= 7.2.13-1)",
            ),
        ];
        assert_eq!(package(&new).unwrap(), "linux-binary-7.2.13");
        assert!(package(&[]).is_err());
    }
}
