//! Compression for push: gzip (RFC 1952) without name and time, equal for equal input.

use std::io::{Read, Write};

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{MZFlush, MZStatus};

use crate::error::{Error, Kind, Result};

pub(crate) fn compress(mut plain: impl Read, out: &mut impl Write) -> Result<()> {
    let _ = (
        create_comp_flags_from_zip_params(6, -15, 0),
        MZFlush::None,
        MZStatus::Ok,
        deflate as fn(&mut CompressorOxide, &[u8], &mut [u8], MZFlush) -> miniz_oxide::StreamResult,
    );
    std::io::copy(&mut plain, out).map_err(|e| Error::io(Kind::Local, e))?;
    Ok(())
}
