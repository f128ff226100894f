//! Small filesystems, to be filled up.

use super::{TempDir, lacking, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs of its own, unmounted when dropped.
pub struct Tmpfs {
    point: PathBuf,
    _directory: TempDir,
}

impl Tmpfs {
    /// With mount options such as `size=2m,nr_inodes=50`. Only root can mount.
    pub fn mount(options: &str) -> Option<Tmpfs> {
        if !rustix::process::geteuid().is_root() {
            return lacking("a full disk: only root can mount a small one");
        }
        let directory = TempDir::new();
        let point = directory.join("small");
        std::fs::create_dir(&point).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        run(mount.arg(&point));
        Some(Tmpfs {
            point,
            _directory: directory,
        })
    }

    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Gives it other limits, and keeps what is in it.
    pub fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]);
        run(mount.arg(&self.point));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.point).status();
    }
}
