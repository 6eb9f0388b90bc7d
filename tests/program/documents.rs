//! What docs/architecture.md says of the files is true.

use std::path::{Path, PathBuf};

/// Every file and folder that the map names is there. A line has names, then two spaces, then what they are for; it lies in the
/// folder above it that is indented less.
#[test]
fn map_of_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, map) = text.split_once("\n## Folders\n").unwrap();
    let (map, _) = map.split_once("\n## ").unwrap();
    let (mut folders, mut named) = (Vec::<(usize, PathBuf)>::new(), 0);
    for line in map.lines().filter(|line| !line.is_empty()) {
        let names = line.trim_start();
        let indent = line.len() - names.len();
        folders.retain(|(other, _)| *other < indent);
        let folder = folders.last().map_or_else(|| root.to_path_buf(), |(_, folder)| folder.clone());
        let names = names.split("  ").next().unwrap().split([' ', ',']);
        for name in names.filter(|name| name.ends_with('/') || name.ends_with(".rs")) {
            let path = folder.join(name);
            assert!(path.exists(), "docs/architecture.md names {}, which is not there", path.display());
            assert_eq!(path.is_dir(), name.ends_with('/'), "{}", path.display());
            if path.is_dir() {
                folders.push((indent, path));
            }
            named += 1;
        }
    }
    assert!(named > 80, "only {named} names: the map has another form");
}
