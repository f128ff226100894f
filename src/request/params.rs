//! `params` of `in` and `out`.

use super::fields::Fields;
use super::names;
use super::source::{Source, read_platform};
use crate::error::{Error, Result};
use crate::oci::platform::Platform;

/// What `in` leaves in its directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// `image.tar`, as `docker load` takes it.
    Oci,
    /// `oci/`, an OCI image layout.
    OciLayout,
    /// `rootfs/`, unpacked.
    Rootfs,
}

#[derive(Debug)]
pub(crate) struct GetParams {
    pub(crate) format: Format,
    pub(crate) platform: Platform,
    pub(crate) skip_download: bool,
}

impl GetParams {
    pub(super) fn read(request: &mut Fields, source: &Source) -> Result<Self> {
        let mut params = GetParams {
            format: Format::Rootfs,
            platform: source.platform.clone(),
            skip_download: false,
        };
        let Some(mut fields) = request.object("params", names::GET_PARAMS)? else {
            return Ok(params);
        };
        params.format = match fields.string("format")?.as_deref() {
            None | Some("rootfs") => Format::Rootfs,
            Some("oci") => Format::Oci,
            Some("oci-layout") => Format::OciLayout,
            Some(other) => {
                return Err(Error::config(format!(
                    "`params.format` is `{other}`; it can be `rootfs`, `oci` or `oci-layout`"
                )));
            }
        };
        params.skip_download = fields.flag("skip_download")?;
        if let Some(platform) = read_platform(&mut fields)? {
            params.platform = platform;
        }
        Ok(params)
    }
}

#[derive(Debug)]
pub(crate) struct PutParams {
    /// Path or glob of the image, relative to the source directory.
    pub(crate) image: String,
    pub(crate) version: Option<String>,
    pub(crate) bump_aliases: bool,
    /// Path of a file with more tags, relative to the source directory.
    pub(crate) additional_tags: Option<String>,
    pub(crate) tag_prefix: Option<String>,
}

impl PutParams {
    pub(super) fn read(request: &mut Fields) -> Result<Self> {
        let missing = || {
            Error::config("`params.image` is missing").advise("it is the path of the image to push")
        };
        let fields = request.object("params", names::PUT_PARAMS)?;
        let mut fields = fields.ok_or_else(missing)?;
        let params = PutParams {
            image: fields.string("image")?.ok_or_else(missing)?,
            version: fields.text("version")?,
            bump_aliases: fields.flag("bump_aliases")?,
            additional_tags: fields.string("additional_tags")?,
            tag_prefix: fields.text("tag_prefix")?,
        };
        if params.tag_prefix.is_some() && params.additional_tags.is_none() {
            return Err(Error::config(
                "`params.tag_prefix` is set, but `params.additional_tags` is missing",
            ));
        }
        Ok(params)
    }
}
