//! Subtrees whose place is behind a symlink of a lower layer: a layer that has `lib/x` and no entry
//! for `lib` means what `lib` is below. They are set aside while the rest of the layer is merged,
//! so that links are resolved as they are afterwards, whatever the order of a listing.

use rustix::fs::{AtFlags, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::{Both, Merge, Walk};
use crate::error::Result;
use crate::rootfs::calls::{failed, make_directory};
use crate::rootfs::records::{read_note, write_note};
use crate::rootfs::tree::Walked;

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
        renameat(both.upper, name, &self.layer, late.tree.as_str())
            .map_err(|error| failed(error, "set aside", to))?;
        // No place has a NUL in it.
        let places = [&both.own(name)?, &b"\0"[..], to].concat();
        write_note(&self.layer, &late.places, &places)?;
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
                let there = statat(&self.layer, late.places.as_str(), AtFlags::SYMLINK_NOFOLLOW);
                if there.is_err() {
                    continue;
                }
                let places = read_note(&self.layer, &late.places)?;
                unlinkat(&self.layer, late.places.as_str(), AtFlags::empty())
                    .map_err(|error| failed(error, "put in place", late.tree.as_bytes()))?;
                let mut places = places.split(|byte| *byte == 0).map(<[u8]>::to_vec);
                let (own, to) = (places.next(), places.next());
                let (own, to) = (own.unwrap_or_default(), to.unwrap_or_default());
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
    /// Where it is in the layer, and where it would be in the rootfs but for a link.
    places: String,
}

impl Late {
    fn new(number: u64) -> Self {
        Late {
            tree: format!("{LATE}/{number}"),
            places: format!("{LATE}/{number}.places"),
        }
    }
}
