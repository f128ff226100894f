//! Subtrees whose place is behind a symlink of a lower layer: a layer that has `lib/x` and no entry
//! for `lib` means what `lib` is below. They are set aside while the rest of the layer is merged,
//! so that links are resolved as they are afterwards, whatever the order of a listing.

use rustix::fs::{AtFlags, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::{Both, Merge, Walk};
use crate::error::Result;
use crate::rootfs::records::make_directory;
use crate::rootfs::tree::{Walked, failed};

/// Where they wait, in the layer's directory.
const LATE: &str = "late";

impl Merge<'_> {
    /// Sets a subtree aside whose place is behind a symlink of a lower layer.
    pub(super) fn defer(
        &mut self,
        both: &Both<'_>,
        name: &[u8],
        number: u64,
        to: &[u8],
    ) -> Result<()> {
        if let Err(Errno::NOENT) = statat(&self.layer, LATE, AtFlags::SYMLINK_NOFOLLOW) {
            make_directory(&self.layer, LATE)?;
        }
        let late = Late::new(number);
        let wrong = |error| failed(error, "set aside", to);
        renameat(both.upper, name, &self.layer, late.tree.as_str()).map_err(wrong)?;
        symlinkat(both.own(name)?, &self.layer, late.own.as_str()).map_err(wrong)?;
        symlinkat(to, &self.layer, late.to.as_str()).map_err(wrong)?;
        self.late += 1;
        Ok(())
    }

    /// What was set aside, in the order in which the layer's entries implied it.
    pub(super) fn merge_late(&mut self) -> Result<()> {
        while self.late > 0 {
            for number in 0..self.implied.count() {
                if self.late == 0 {
                    return Ok(());
                }
                let late = Late::new(number);
                let wrong = |error| failed(error, "put in place", late.tree.as_bytes());
                let own = match readlinkat(&self.layer, late.own.as_str(), Vec::new()) {
                    Ok(own) => own.into_bytes(),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(wrong(error)),
                };
                let to = readlinkat(&self.layer, late.to.as_str(), Vec::new())
                    .map_err(wrong)?
                    .into_bytes();
                for note in [&late.own, &late.to] {
                    unlinkat(&self.layer, note.as_str(), AtFlags::empty()).map_err(wrong)?;
                }
                self.late -= 1;
                let to = match self.lower.walk(&to, &mut |_| Ok(true))? {
                    Walked::Directory(slot) => self.lower.get(slot)?.path().to_vec(),
                    Walked::Missing(place) => place,
                    Walked::Blocked(error) => return Err(error),
                };
                self.merge(Walk {
                    own,
                    from: late.tree.into_bytes(),
                    to,
                })?;
            }
        }
        Ok(())
    }
}

/// Names of a subtree that was set aside.
struct Late {
    tree: String,
    own: String,
    to: String,
}

impl Late {
    fn new(number: u64) -> Self {
        Late {
            tree: format!("{LATE}/{number}"),
            own: format!("{LATE}/{number}.own"),
            to: format!("{LATE}/{number}.to"),
        }
    }
}
