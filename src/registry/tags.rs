//! The list of tags, page by page.

use serde::Deserialize;

use super::{Access, Remote};
use crate::error::{Doing, Error, Kind, Result};
use crate::http::{Response, Url};
use crate::oci::json;

/// One page is read this far: a thousand tags of 128 characters take 130 KiB, but some registries
/// send everything in one page.
const PAGE_LIMIT: u64 = 16 << 20;

/// Page sizes that are asked for; some registries refuse more than 100, some any.
const PAGE_SIZES: [Option<u32>; 3] = [Some(1000), Some(100), None];

/// More pages than any repository has.
const MOST_PAGES: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<Option<String>>>,
}

impl Remote<'_> {
    /// All tags in the registry's order, as it writes them; `None` when it does not know the
    /// repository.
    pub(crate) fn tags(&self) -> Result<Option<Vec<String>>> {
        let listed = self.list_tags();
        match listed {
            Err(error) if error.is_missing() => Ok(None),
            listed => listed
                .map(Some)
                .doing(|| format!("{}: list tags", self.repository)),
        }
    }

    fn list_tags(&self) -> Result<Vec<String>> {
        let (mut url, mut page) = self.first_page()?;
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let next = next_page(&page, &url)?;
            let bytes = page.bytes(PAGE_LIMIT)?;
            let read: Page = json::object(&bytes).map_err(|_| {
                Error::registry(format!("GET {url}: the answer is not a list of tags"))
            })?;
            tags.extend(read.tags.unwrap_or_default().into_iter().flatten());
            let Some(next) = next else {
                return Ok(tags);
            };
            if !self.is_own(&next) {
                return Err(Error::hostile(format!(
                    "GET {url}: the next page of tags is said to be on {}",
                    next.origin()
                )));
            }
            if next == url {
                return Err(Error::registry(format!(
                    "GET {url}: the list of tags leads back to itself"
                )));
            }
            url = next;
            page = self.send("GET", &url, Access::Pull, |request| request)?;
        }
        Err(Error::hostile(format!(
            "GET {url}: the list of tags has more than {MOST_PAGES} pages"
        )))
    }

    fn first_page(&self) -> Result<(Url, Response)> {
        let plain = self.url("tags/list")?;
        let mut refusal = None;
        for size in PAGE_SIZES {
            let url = match size {
                Some(n) => plain.with_query(&[("n", &n.to_string())]),
                None => plain.clone(),
            };
            match self.send("GET", &url, Access::Pull, |request| request) {
                Ok(page) => return Ok((url, page)),
                Err(error) if matches!(error.kind(), Kind::Registry | Kind::Missing) => {
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::registry("the list of tags cannot be asked for")))
    }
}

/// The URL of `Link: <…>; rel="next"` (RFC 8288).
fn next_page(page: &Response, url: &Url) -> Result<Option<Url>> {
    for header in page.headers("link") {
        for link in header.split(',') {
            let Some((target, parameters)) = link
                .trim()
                .strip_prefix('<')
                .and_then(|rest| rest.split_once('>'))
            else {
                continue;
            };
            let next = parameters.split(';').any(|parameter| {
                let parameter = parameter.trim().to_ascii_lowercase();
                matches!(parameter.as_str(), "rel=next" | "rel=\"next\"")
            });
            if next {
                return url.join(target).map(Some);
            }
        }
    }
    Ok(None)
}
