//! The schedules of `in`: an unpacked `rootfs`, and the formats that keep an image as it is.

mod formats;
mod merger;
mod rootfs;

pub(crate) use formats::{image_tar, layout};
pub(crate) use rootfs::rootfs;
