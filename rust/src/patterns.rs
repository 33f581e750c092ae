//! C interface over the `regex` crate; the contract is in moerge_rust.h.
use crate::{bytes_out, guard, silence_panics, text_in};
use regex::Regex;
use regex_syntax::{ast::Span, Error};
use std::ffi::c_char;

pub struct MoergeRegex(Regex);

const NO_PART: usize = usize::MAX;
/// Groups of all matches together, and bytes of a text after replacing.
const MOST_GROUPS: usize = 10_000_000;
const MOST_BYTES: usize = 256 << 20;

/// What is wrong and where, in one line; the crate's own message draws the place below the pattern.
fn reason(pattern: &str, error: &regex::Error) -> String {
    let at = |span: &Span, what: String| format!("{what} (character {})", pattern[..span.start.offset].chars().count() + 1);
    match (regex_syntax::parse(pattern), error) {
        (Err(Error::Parse(e)), _) => at(e.span(), e.kind().to_string()),
        (Err(Error::Translate(e)), _) => at(e.span(), e.kind().to_string()),
        (_, regex::Error::CompiledTooBig(limit)) => format!("it needs more than {} MB", limit >> 20),
        (_, other) => other.to_string(),
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_regex_new(pattern: *const c_char, length: usize, error: *mut *mut c_char) -> *mut MoergeRegex {
    silence_panics();
    guard(error, std::ptr::null_mut(), || {
        let pattern = text_in(pattern, length)?;
        let regex = Regex::new(pattern).map_err(|e| reason(pattern, &e))?;
        Ok(Box::into_raw(Box::new(MoergeRegex(regex))))
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_regex_free(regex: *mut MoergeRegex) {
    if !regex.is_null() {
        drop(Box::from_raw(regex))
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_regex_groups(regex: *const MoergeRegex) -> usize {
    (*regex).0.captures_len()
}

#[no_mangle]
pub unsafe extern "C" fn moerge_regex_find(
    regex: *const MoergeRegex, text: *const c_char, length: usize, most: usize, count: *mut usize, error: *mut *mut c_char,
) -> *mut u8 {
    guard(error, std::ptr::null_mut(), || {
        let regex = &(*regex).0;
        if most > MOST_GROUPS / regex.captures_len() {
            return Err(format!("{most} matches with {} groups each are too many", regex.captures_len()));
        }
        let mut found = Vec::new();
        for captures in regex.captures_iter(text_in(text, length)?).take(most) {
            for group in captures.iter() {
                let (begin, end) = group.map_or((NO_PART, NO_PART), |group| (group.start(), group.end()));
                found.extend(begin.to_ne_bytes());
                found.extend(end.to_ne_bytes());
            }
        }
        Ok(bytes_out(found, count))
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_regex_replace(
    regex: *const MoergeRegex, text: *const c_char, length: usize, by: *const c_char, by_length: usize, out_length: *mut usize,
    error: *mut *mut c_char,
) -> *mut u8 {
    guard(error, std::ptr::null_mut(), || {
        let (text, by) = (text_in(text, length)?, text_in(by, by_length)?);
        let (mut out, mut rest) = (String::new(), 0);
        for found in (*regex).0.find_iter(text) {
            out.push_str(&text[rest..found.start()]);
            out.push_str(by);
            rest = found.end();
            if out.len() > MOST_BYTES {
                return Err(format!("the text would have more than {} MB", MOST_BYTES >> 20));
            }
        }
        out.push_str(&text[rest..]);
        Ok(bytes_out(out.into_bytes(), out_length))
    })
}
