//! C interface over `hf-xet`; the contract is in moerge_rust.h.
use crate::{guard, silence_panics};
use std::{
    ffi::{c_char, c_int, c_void, CStr, OsStr},
    os::unix::ffi::OsStrExt,
    panic::{catch_unwind, AssertUnwindSafe},
    path::PathBuf,
    sync::mpsc::{channel, RecvTimeoutError},
    sync::{Arc, OnceLock},
    time::Duration,
};
use xet::{
    xet_session::{
        header::AUTHORIZATION, GroupProgressReport, HeaderMap, HeaderValue, Sha256Policy, XetConfig, XetFileDownloadGroup,
        XetFileInfo, XetSession, XetSessionBuilder, XetUploadCommit,
    },
    XetError,
};

type Progress = extern "C" fn(user: *mut c_void, done: u64, total: u64) -> c_int;

const POLL: Duration = Duration::from_millis(100);

/// Reports to the storage how a transfer went, unless switched off: here it has to be switched on. hf-xet itself reads
/// the variable, and those of huggingface_hub that forbid it whatever this one says.
fn config() -> XetConfig {
    let mut config = XetConfig::new();
    if std::env::var_os("HF_XET_TELEMETRY_ENABLED").is_none() {
        config.telemetry.enabled = false;
    }
    config
}

unsafe fn text(text: *const c_char) -> Result<String, String> {
    CStr::from_ptr(text).to_str().map(str::to_string).map_err(|e| format!("the text is not UTF-8: {e}"))
}

unsafe fn path(path: *const c_char) -> PathBuf {
    OsStr::from_bytes(CStr::from_ptr(path).to_bytes()).into()
}

fn headers(token: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if !token.is_empty() {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "the token has characters that no token has".to_string())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// hf-xet's text without the kinds of error, often several, that it puts before what happened.
fn reason(error: &XetError) -> String {
    let text = error.to_string();
    let mut rest = text.trim();
    while let Some((kind, cause)) = rest.split_once(": ") {
        if cause.is_empty() || !kind.ends_with(" error") && !kind.ends_with(" Error") {
            break;
        }
        rest = cause.trim_start();
    }
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a transfer runs under: an upload or a download, once it has begun.
trait Transfer: Clone + Send + Sync + 'static {
    fn begin(session: &XetSession, url: &str, headers: HeaderMap) -> Result<Self, XetError>;
    fn progress(&self) -> GroupProgressReport;
    fn abort(&self) -> Result<(), XetError>;
}

impl Transfer for XetUploadCommit {
    fn begin(session: &XetSession, url: &str, headers: HeaderMap) -> Result<Self, XetError> {
        session.new_upload_commit()?.with_token_refresh_url(url, headers).build_blocking()
    }
    fn progress(&self) -> GroupProgressReport {
        XetUploadCommit::progress(self)
    }
    fn abort(&self) -> Result<(), XetError> {
        XetUploadCommit::abort(self)
    }
}

impl Transfer for XetFileDownloadGroup {
    fn begin(session: &XetSession, url: &str, headers: HeaderMap) -> Result<Self, XetError> {
        session.new_file_download_group()?.with_token_refresh_url(url, headers).build_blocking()
    }
    fn progress(&self) -> GroupProgressReport {
        XetFileDownloadGroup::progress(self)
    }
    fn abort(&self) -> Result<(), XetError> {
        XetFileDownloadGroup::abort(self)
    }
}

/// Does `work` on a thread of its own, as hf-xet's calls cannot be interrupted, and tells `progress` of it meanwhile. An
/// abort drops the session, and with it every task that hf-xet still has: nothing is written after this returns.
fn run<T: Transfer>(
    url: String, token: String, progress: Option<Progress>, user: *mut c_void,
    work: impl FnOnce(T) -> Result<(), XetError> + Send + 'static,
) -> Result<bool, String> {
    silence_panics();
    let headers = headers(&token)?;
    let session = XetSessionBuilder::new_with_config(config()).build().map_err(|e| reason(&e))?;
    let begun = Arc::new(OnceLock::<T>::new());
    let (sender, receiver) = channel();
    let worker = {
        let (session, begun) = (session.clone(), begun.clone());
        std::thread::spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let transfer = T::begin(&session, &url, headers)?;
                work(begun.get_or_init(|| transfer).clone())
            }));
            let _ = sender.send(result.unwrap_or_else(|_| Err(XetError::other("hf-xet panicked"))));
        })
    };
    let report = || {
        let now = begun.get().map(T::progress);
        let (done, total) = now.map_or((0, 0), |now| (now.total_bytes_completed, now.total_bytes));
        progress.map_or(0, |tell| tell(user, done, total))
    };
    let mut aborted = false;
    let result = loop {
        match receiver.recv_timeout(POLL) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Disconnected) => break Err(XetError::other("hf-xet ended without a result")),
            Err(RecvTimeoutError::Timeout) if aborted || report() == 0 => {}
            Err(RecvTimeoutError::Timeout) => {
                aborted = true;
                // Before the transfer has begun only the session knows of it.
                let _ = session.abort();
                let _ = begun.get().map(T::abort);
            }
        }
    };
    let _ = worker.join();
    match result {
        Err(_) if aborted => Err("aborted".into()),
        Err(e) => Err(reason(&e)),
        Ok(()) => {
            report();
            Ok(true)
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_xet_upload(
    refresh_url: *const c_char, token: *const c_char, paths: *const *const c_char, sha256: *const *const c_char,
    count: usize, progress: Option<Progress>, user: *mut c_void, error: *mut *mut c_char,
) -> bool {
    guard(error, false, || {
        let mut files = Vec::with_capacity(count);
        for i in 0..count {
            files.push((path(*paths.add(i)), Sha256Policy::from_hex(&text(*sha256.add(i))?)));
        }
        run(text(refresh_url)?, text(token)?, progress, user, move |commit: XetUploadCommit| {
            for (path, sha256) in files {
                commit.upload_from_path_blocking(path, sha256)?;
            }
            commit.commit_blocking().map(|_| ())
        })
    })
}

#[no_mangle]
pub unsafe extern "C" fn moerge_xet_download(
    refresh_url: *const c_char, token: *const c_char, hash: *const c_char, size: u64, target: *const c_char,
    progress: Option<Progress>, user: *mut c_void, error: *mut *mut c_char,
) -> bool {
    guard(error, false, || {
        let (file, target) = (XetFileInfo::new(text(hash)?, size), path(target));
        run(text(refresh_url)?, text(token)?, progress, user, move |group: XetFileDownloadGroup| {
            group.download_file_to_path_blocking(file, target)?;
            group.finish_blocking().map(|_| ())
        })
    })
}
