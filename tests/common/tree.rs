//! Reads directory trees into listings that can be compared, and watches what must not change.

use super::{TempDir, hex, sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

/// One name of a tree, with everything that `get` promises to keep.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Relative to the root, bytes that are not UTF-8 escaped; the root itself is empty.
    pub path: String,
    /// As `ls -l` shows it: `-`, `d`, `l`, `p`, `c`, `b`, `s`.
    pub kind: char,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of a regular file.
    pub content: Option<Vec<u8>>,
    /// 512-byte blocks on disk: fewer than its size in a sparse file.
    pub blocks: u64,
    /// Of a symlink.
    pub target: Option<String>,
    /// Path of the first name of the same file, where it has several names in this tree.
    pub same_as: Option<String>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Node {
    /// Everything but times, on one line:
    /// `-0644 0:0 etc/a 3 sha256:… =etc/first user.x=00ff` or `l0777 0:0 b -> a`.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}{:04o} {}:{} {}",
            self.kind, self.mode, self.uid, self.gid, self.path
        );
        if let Some(content) = &self.content {
            line += &format!(" {} {}", content.len(), &sha256(content)[..19]);
        }
        if let Some(target) = &self.target {
            line += &format!(" -> {target}");
        }
        if let Some(first) = &self.same_as {
            line += &format!(" ={first}");
        }
        for (name, value) in &self.xattrs {
            line += &format!(" {name}={}", hex(value));
        }
        line
    }

    /// [`Node::line`] and the modification time: `… @1000000000.000000000`.
    pub fn full_line(&self) -> String {
        format!("{} @{}.{:09}", self.line(), self.mtime.0, self.mtime.1)
    }
}

/// All names below a directory in the order of their bytes, the root itself first. Never follows
/// a symlink, never opens anything but regular files.
pub fn tree(root: impl AsRef<Path>) -> Vec<Node> {
    let root = root.as_ref();
    let mut paths = vec![OsString::new()];
    collect(root, OsStr::new(""), &mut paths);
    paths.sort();
    let mut first_names: BTreeMap<(u64, u64), String> = BTreeMap::new();
    paths
        .iter()
        .map(|path| read(root, path, &mut first_names))
        .collect()
}

/// The node of one path below a root.
pub fn node(root: impl AsRef<Path>, path: &str) -> Node {
    let nodes = tree(root);
    let found = nodes.iter().find(|node| node.path == path);
    found
        .unwrap_or_else(|| panic!("no `{path}` in {:?}", names(&nodes)))
        .clone()
}

fn names(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().map(|node| node.path.as_str()).collect()
}

fn collect(root: &Path, below: &OsStr, paths: &mut Vec<OsString>) {
    let directory = join(root, below);
    let entries = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let mut path = below.to_owned();
        if !path.is_empty() {
            path.push("/");
        }
        path.push(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, paths);
        }
        paths.push(path);
    }
}

fn join(root: &Path, path: &OsStr) -> PathBuf {
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(path)
    }
}

fn read(root: &Path, path: &OsStr, first_names: &mut BTreeMap<(u64, u64), String>) -> Node {
    let full = join(root, path);
    let found = fs::symlink_metadata(&full).unwrap();
    let kind = found.file_type();
    let shown = path
        .as_bytes()
        .escape_ascii()
        .to_string()
        .replace("\\\\", "\\");
    let shown = path
        .to_str()
        .filter(|text| !text.contains(char::is_control))
        .map_or(shown, str::to_owned);
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () if kind.is_socket() => 's',
        () => '-',
    };
    let mut same_as = None;
    if letter != 'd' && found.nlink() > 1 {
        let key = (found.dev(), found.ino());
        match first_names.get(&key) {
            Some(first) => same_as = Some(first.clone()),
            None => drop(first_names.insert(key, shown.clone())),
        }
    }
    let content = (letter == '-').then(|| {
        fs::read(&full).unwrap_or_else(|error| panic!("read {}: {error}", full.display()))
    });
    let target = (letter == 'l').then(|| {
        let target = fs::read_link(&full).unwrap();
        target.as_os_str().as_bytes().escape_ascii().to_string()
    });
    Node {
        path: shown,
        kind: letter,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime: (found.mtime(), found.mtime_nsec()),
        content,
        blocks: found.blocks(),
        target,
        same_as,
        xattrs: xattrs(&full),
    }
}

/// All extended attributes of a name itself; none where the filesystem has none.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return BTreeMap::new();
    };
    names.truncate(length);
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let mut value = vec![0; 64 << 10];
            let length =
                rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).ok()?;
            value.truncate(length);
            Some((String::from_utf8_lossy(name).into_owned(), value))
        })
        .collect()
}

/// Compares names and contents: `("etc/a", "text")`, `("link", "-> target")`, `("pipe", "|")`,
/// `("empty/", "")`. A directory need not be listed when something below it is.
pub fn assert_tree<'a>(
    root: impl AsRef<Path>,
    expected: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let mut expected: Vec<(String, String)> = expected
        .into_iter()
        .map(|(path, what)| (path.to_owned(), what.to_owned()))
        .collect();
    expected.sort();
    let listed: BTreeSet<&str> = expected.iter().map(|(path, _)| path.as_str()).collect();
    let nodes = tree(&root);
    let mut got: Vec<(String, String)> = Vec::new();
    for node in &nodes {
        let what = match node.kind {
            '-' => {
                String::from_utf8_lossy(node.content.as_deref().unwrap_or_default()).into_owned()
            }
            'l' => format!("-> {}", node.target.as_deref().unwrap_or_default()),
            'p' => "|".to_owned(),
            'd' => {
                let path = format!("{}/", node.path);
                let below = |other: &Node| node.path.is_empty() || other.path.starts_with(&path);
                let empty = !nodes
                    .iter()
                    .any(|other| other.path != node.path && below(other));
                if listed.contains(path.as_str()) || (empty && !node.path.is_empty()) {
                    got.push((path, String::new()));
                }
                continue;
            }
            other => other.to_string(),
        };
        got.push((node.path.clone(), what));
    }
    got.sort();
    if got != expected {
        let show = |list: &[(String, String)]| {
            let lines = list.iter().map(|(path, what)| {
                let short: String = what.chars().take(200).collect();
                format!("{path:?}: {short:?}")
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        panic!(
            "the tree {} differs\n=== expected\n{}\n=== got\n{}",
            root.as_ref().display(),
            show(&expected),
            show(&got)
        );
    }
}

/// Compares [`Node::line`]s, the root's left out.
pub fn assert_lines<'a>(root: impl AsRef<Path>, expected: impl IntoIterator<Item = &'a str>) {
    let got: Vec<String> = tree(&root).iter().skip(1).map(Node::line).collect();
    let expected: Vec<&str> = expected.into_iter().collect();
    assert!(
        got == expected,
        "the tree {} differs\n=== expected\n{}\n=== got\n{}",
        root.as_ref().display(),
        expected.join("\n"),
        got.join("\n")
    );
}

/// A directory that nothing may touch: whatever an image does, it is in the end what it was.
///
/// Compared is all that [`tree`] sees, inode numbers, link counts and change times too, so that a
/// change that was undone is seen as well. Checked when dropped.
///
/// ```ignore
/// let canary = Canary::beside(output.destination());
/// let hostile = layer().symlink("out", canary.path().to_str().unwrap()).file("out/file", "x");
/// ```
pub struct Canary {
    root: PathBuf,
    own: Option<TempDir>,
    before: Vec<String>,
}

impl Canary {
    /// In a directory of its own.
    pub fn new() -> Canary {
        let own = TempDir::new();
        let root = own.join("canary");
        let mut canary = Canary::plant(&root);
        canary.own = Some(own);
        canary
    }

    /// At `canary` beside this directory, where `../canary` leads from inside it.
    pub fn beside(directory: &Path) -> Canary {
        Canary::plant(&directory.with_file_name("canary"))
    }

    fn plant(root: &Path) -> Canary {
        fs::create_dir(root).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/inner"), "inner").unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("file"), "alive").unwrap();
        fs::write(root.join("setuid"), "").unwrap();
        fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(root.join("file"), root.join("twin")).unwrap();
        symlink("file", root.join("link")).unwrap();
        Canary {
            root: root.to_owned(),
            own: None,
            before: state(root),
        }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Its path as text, for names and link targets in archives.
    pub fn name(&self) -> &str {
        self.root.to_str().unwrap()
    }

    pub fn assert_unharmed(&self) {
        let now = state(&self.root);
        assert!(
            now == self.before,
            "THE CANARY {} WAS TOUCHED: something outside the rootfs changed\n=== before\n{}\n=== now\n{}",
            self.root.display(),
            self.before.join("\n"),
            now.join("\n")
        );
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.assert_unharmed();
        }
    }
}

fn state(root: &Path) -> Vec<String> {
    if !root.is_dir() || root.is_symlink() {
        return vec!["gone".to_owned()];
    }
    tree(root)
        .iter()
        .map(|node| {
            let found = fs::symlink_metadata(join(root, OsStr::new(&node.path))).unwrap();
            let (changed, ns) = (found.ctime(), found.ctime_nsec());
            format!(
                "{} inode {} links {} changed {changed}.{ns:09}",
                node.full_line(),
                found.ino(),
                found.nlink()
            )
        })
        .collect()
}
