use super::Call;
use crate::error::*;
use std::path::Path;
pub(super) fn run(_call: &Call<'_>, _d: &Path) -> Result<String> {
    Err(Error::local("todo"))
}
