//! The list of tags, page by page.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Access, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::Url;
use crate::oci::json;

/// One page is read this far: a thousand tags of 128 characters take 130 KiB, but some registries
/// send everything in one page.
const PAGE_LIMIT: u64 = 16 << 20;

/// Page sizes that are asked for; some registries refuse more than 100, some any.
const PAGE_SIZES: [Option<u32>; 3] = [Some(1000), Some(100), None];

/// More pages than any repository has.
const MOST_PAGES: usize = 10_000;

/// More tags than any repository has.
const MOST_TAGS: usize = 1_000_000;

/// Bytes of their names and of the pages' addresses together: what a hostile registry can cost us. A
/// tag has at most 128 characters, and most have fewer than 32.
const MOST_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct TagList {
    /// Where there are no tags, some registries write `null`.
    #[serde(default, deserialize_with = "given")]
    tags: Option<Option<Vec<Option<String>>>>,
    /// Some leave them out; a document with neither is another one, such as an error with the status
    /// of a success.
    #[serde(default, deserialize_with = "given")]
    name: Option<serde::de::IgnoredAny>,
}

fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TagList {
    fn read(bytes: &[u8]) -> Option<Vec<String>> {
        let listed: TagList = json::object(bytes).ok()?;
        let tags = match (listed.tags, listed.name) {
            (None, None) => return None,
            (tags, _) => tags.flatten().unwrap_or_default(),
        };
        Some(tags.into_iter().flatten().collect())
    }
}

struct Page {
    url: Url,
    tags: Vec<String>,
    next: Option<Url>,
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
        let mut page = self.first_page()?;
        let mut asked = HashSet::new();
        let mut tags = Vec::new();
        let mut bytes = 0;
        loop {
            bytes += page.tags.iter().map(String::len).sum::<usize>();
            tags.extend(page.tags);
            if tags.len() > MOST_TAGS || asked.len() > MOST_PAGES || bytes > MOST_BYTES {
                return Err(Error::hostile(format!(
                    "GET {}: the list of tags does not end",
                    page.url
                )));
            }
            let Some(next) = page.next else {
                return Ok(tags);
            };
            let next = self.with_own_scheme(next);
            if !self.is_own(&next) {
                return Err(Error::hostile(format!(
                    "GET {}: the next page of tags is said to be on {}",
                    page.url,
                    next.origin()
                )));
            }
            let address = next.expose();
            bytes += address.len();
            if !asked.insert(address) {
                return Err(Error::registry(format!(
                    "GET {}: the list of tags leads back to itself",
                    page.url
                )));
            }
            // A repository that has a first page is known.
            page = self.page(&next).map_err(Error::of_something_else)?;
        }
    }

    fn first_page(&self) -> Result<Page> {
        let plain = self.url("tags/list")?;
        let [sizes @ .., last] = PAGE_SIZES;
        for size in sizes {
            match self.page(&with_size(&plain, size)) {
                // A size that is too large is refused at once, and for good.
                Err(error)
                    if error.kind() == Kind::Registry && error.can_try_again() == Again::Never =>
                {
                    self.report()
                        .debug(|| format!("{error}; asking for smaller pages"));
                }
                page => return page,
            }
        }
        self.page(&with_size(&plain, last))
    }

    /// One page; its body is part of the attempt.
    fn page(&self, url: &Url) -> Result<Page> {
        self.until_answered(|| {
            let response = self.send_once("GET", url, Access::Pull, |request| request)?;
            // Quirk(zuul-registry 1.3): a path with a query is a page that is not there, which says
            // nothing about the repository. A registry that does not know it says so in JSON.
            let content_type = response.header("content-type").unwrap_or_default();
            let of_query = url.query("n").is_some() && !content_type.contains("json");
            let response = self.successful("GET", url, response);
            let response = response.map_err(|error| match of_query {
                true => error.of_something_else(),
                false => error,
            })?;
            let from = response.url.clone();
            let next = next_page(response.headers("link"), &from)?;
            let bytes = response.bytes(PAGE_LIMIT)?;
            let tags = TagList::read(&bytes).ok_or_else(|| {
                Error::hostile(format!("GET {from}: the answer is not a list of tags"))
            })?;
            Ok(Page {
                url: from,
                tags,
                next,
            })
        })
    }
}

fn with_size(url: &Url, size: Option<u32>) -> Url {
    match size {
        Some(n) => url.with_query(&[("n", &n.to_string())]),
        None => url.clone(),
    }
}

/// The URL of `Link: <…>; rel="next"` (RFC 8288, section 3).
fn next_page<'h>(headers: impl Iterator<Item = &'h str>, url: &Url) -> Result<Option<Url>> {
    for header in headers {
        let mut rest = header;
        while let Some((_, link)) = rest.split_once('<') {
            let Some((target, after)) = link.split_once('>') else {
                break;
            };
            let (parameters, following) = match after.split_once('<') {
                Some((parameters, _)) => after.split_at(parameters.len()),
                None => (after, ""),
            };
            rest = following;
            if parameters.split([';', ',']).any(is_next) {
                return url.join(target).map(Some);
            }
        }
    }
    Ok(None)
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let value = value.trim().trim_matches('"').to_ascii_lowercase();
    name.trim().eq_ignore_ascii_case("rel") && value.split(' ').any(|kind| kind == "next")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_links_of_any_form() {
        let url = Url::parse("https://r/v2/a/tags/list?n=1000").unwrap();
        for (headers, next) in [
            (
                &["</v2/a/tags/list?last=x&n=5>; rel=\"next\""][..],
                Some("/v2/a/tags/list?last=x&n=5"),
            ),
            (&["<?last=b,c>; rel=next"], Some("/v2/a/tags/list?last=b,c")),
            (
                &["</first>; rel=\"first\", </second>; title=\"x\"; rel=\"last next\""],
                Some("/second"),
            ),
            (&["</a>; rel=prev", "</b>;REL = \"NEXT\""], Some("/b")),
            (&["</a>; rel=\"nextish\""], None),
            (&["</a", "rel=next", "<>"], None),
            (&[], None),
        ] {
            let found = next_page(headers.iter().copied(), &url).unwrap();
            assert_eq!(found.as_ref().map(Url::target), next, "{headers:?}");
        }
    }
}
