pub(crate) mod gzip;
pub(crate) fn decode<R: std::io::Read>(r: R) -> crate::error::Result<R> {
    Ok(r)
}
