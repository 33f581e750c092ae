//! C interface over the Hugging Face `tokenizers` crate and, in files of their own, `regex`, `parquet` and `hf-xet`; the
//! contract is in moerge_rust.h.
use std::{
    ffi::{c_char, CString},
    panic::{catch_unwind, AssertUnwindSafe},
    ptr, slice,
};
use tokenizers::{AddedToken, Tokenizer};

mod limits;
mod parquet_limits;
mod parquet_rows;
mod patterns;
#[cfg(feature = "xet")]
mod xet;

pub struct MoergeTokenizer(Tokenizer);

fn text_out(text: String) -> *mut c_char {
    CString::new(text.replace('\0', " ")).map_or(ptr::null_mut(), CString::into_raw)
}

unsafe fn set_error(error: *mut *mut c_char, message: String) {
    if !error.is_null() {
        *error = text_out(message);
    }
}

/// Runs `work`; an error or a panic becomes `failed` and a message.
unsafe fn guard<T>(error: *mut *mut c_char, failed: T, work: impl FnOnce() -> Result<T, String>) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => value,
        Ok(Err(message)) => {
            set_error(error, message);
            failed
        }
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_else(|| "panic".into());
            set_error(error, message);
            failed
        }
    }
}

/// A panic becomes an error message (guard); the default hook would print a backtrace as well.
fn silence_panics() {
    static SILENCE: std::sync::Once = std::sync::Once::new();
    SILENCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

unsafe fn text_in<'a>(text: *const c_char, length: usize) -> Result<&'a str, String> {
    if length == 0 {
        return Ok("");
    }
    std::str::from_utf8(slice::from_raw_parts(text as *const u8, length)).map_err(|e| format!("the text is not UTF-8: {e}"))
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_from_json(
    json: *const c_char, length: usize, error: *mut *mut c_char,
) -> *mut MoergeTokenizer {
    silence_panics();
    guard(error, ptr::null_mut(), || {
        let json = text_in(json, length)?;
        limits::check(json)?;
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        Ok(Box::into_raw(Box::new(MoergeTokenizer(tokenizer))))
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_free(tokenizer: *mut MoergeTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer))
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_encode(
    tokenizer: *const MoergeTokenizer, text: *const c_char, length: usize, add_special: bool, count: *mut usize,
    error: *mut *mut c_char,
) -> *mut u32 {
    guard(error, ptr::null_mut(), || {
        let encoding = (*tokenizer).0.encode_fast(text_in(text, length)?, add_special).map_err(|e| e.to_string())?;
        let ids = encoding.get_ids().to_vec().into_boxed_slice();
        *count = ids.len();
        Ok(Box::into_raw(ids) as *mut u32)
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_vocab_size(tokenizer: *const MoergeTokenizer) -> usize {
    (*tokenizer).0.get_vocab_size(true)
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_model_size(tokenizer: *const MoergeTokenizer) -> usize {
    (*tokenizer).0.get_vocab_size(false)
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_difference(
    a: *const MoergeTokenizer, b: *const MoergeTokenizer, example: *mut *mut c_char,
) -> usize {
    guard(ptr::null_mut(), 0, || {
        let (a, b) = ((*a).0.get_vocab(true), (*b).0.get_vocab(true));
        let differing: Vec<&String> = (a.iter().filter(|(token, id)| b.get(*token) != Some(id)))
            .chain(b.iter().filter(|(token, _)| !a.contains_key(*token)))
            .map(|(token, _)| token)
            .collect();
        if let Some(first) = differing.iter().min() {
            *example = text_out(first.to_string());
        }
        Ok(differing.len())
    })
}

// Tokens cross the border as records: id, flags, length (u32 each, native byte order), then the text's bytes.
const ADDED: u32 = 1;
const SPECIAL: u32 = 2;
const NORMALIZED: u32 = 4;
const SINGLE_WORD: u32 = 8;
const LSTRIP: u32 = 16;
const RSTRIP: u32 = 32;

fn added_flags(token: &AddedToken) -> u32 {
    [(token.special, SPECIAL), (token.normalized, NORMALIZED), (token.single_word, SINGLE_WORD), (token.lstrip, LSTRIP),
     (token.rstrip, RSTRIP)]
        .iter()
        .fold(ADDED, |flags, (set, flag)| if *set { flags | flag } else { flags })
}

unsafe fn bytes_out(bytes: Vec<u8>, length: *mut usize) -> *mut u8 {
    let bytes = bytes.into_boxed_slice();
    *length = bytes.len();
    Box::into_raw(bytes) as *mut u8
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_tokens(
    tokenizer: *const MoergeTokenizer, length: *mut usize, error: *mut *mut c_char,
) -> *mut u8 {
    guard(error, ptr::null_mut(), || {
        let added = (*tokenizer).0.get_added_tokens_decoder();
        let flags = |id: &u32, text: &str| added.get(id).filter(|token| token.content == text).map_or(0, added_flags);
        let mut tokens: Vec<(u32, u32, String)> =
            (*tokenizer).0.get_vocab(true).into_iter().map(|(text, id)| (id, flags(&id, &text), text)).collect();
        tokens.sort_unstable();
        let mut out = Vec::with_capacity(tokens.iter().map(|token| 12 + token.2.len()).sum());
        for (id, flags, text) in tokens {
            let size = u32::try_from(text.len()).map_err(|e| e.to_string())?;
            for number in [id, flags, size] {
                out.extend(number.to_ne_bytes());
            }
            out.extend(text.as_bytes());
        }
        Ok(bytes_out(out, length))
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_add_tokens(
    tokenizer: *mut MoergeTokenizer, records: *const u8, length: usize, error: *mut *mut c_char,
) -> bool {
    guard(error, false, || {
        let mut rest = if length == 0 { &[][..] } else { slice::from_raw_parts(records, length) };
        let mut tokens = Vec::new();
        while rest.len() >= 12 {
            let number = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (flags, size) = (number(4), number(8) as usize);
            let text = rest.get(12..12 + size).ok_or("a record is cut off")?;
            let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
            let has = |flag| flags & flag != 0;
            tokens.push(
                AddedToken::from(text, has(SPECIAL))
                    .normalized(has(NORMALIZED))
                    .single_word(has(SINGLE_WORD))
                    .lstrip(has(LSTRIP))
                    .rstrip(has(RSTRIP)),
            );
            rest = &rest[12 + size..];
        }
        (*tokenizer).0.add_tokens(tokens).map(|_| true).map_err(|e| e.to_string())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_tokenizer_decode(
    tokenizer: *const MoergeTokenizer, ids: *const u32, count: usize, length: *mut usize, error: *mut *mut c_char,
) -> *mut u8 {
    guard(error, ptr::null_mut(), || {
        let ids = if count == 0 { &[][..] } else { slice::from_raw_parts(ids, count) };
        let text = (*tokenizer).0.decode(ids, false).map_err(|e| e.to_string())?;
        Ok(bytes_out(text.into_bytes(), length))
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_free_bytes(bytes: *mut u8, length: usize) {
    if !bytes.is_null() {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(bytes, length)))
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_free_ids(ids: *mut u32, count: usize) {
    if !ids.is_null() {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(ids, count)))
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_free_text(text: *mut c_char) {
    if !text.is_null() {
        drop(CString::from_raw(text))
    }
}
