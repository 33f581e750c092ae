//! C interface over the `parquet` crate; the contract is in moerge_rust.h.
use crate::{bytes_out, guard, parquet_limits as limits, silence_panics};
use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::{
        metadata::ParquetStatisticsPolicy,
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::{
        reader::{Reader, TreeBuilder},
        Field,
    },
};
use std::{
    ffi::{c_char, CStr, OsStr},
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    ptr,
};

const MOST_FILE: u64 = 1 << 30;
/// Bytes of JSON: of a row, of all rows, and about how many one call returns.
const MOST_ROW: usize = 64 << 20;
const MOST_TEXT: usize = 2 << 30;
const BATCH: usize = 1 << 20;
/// Values of a column that are decoded at once.
const VALUES: usize = 256;

pub struct MoergeParquet {
    file: SerializedFileReader<Bytes>,
    rows: Option<Reader>, // of the group at hand
    group: usize,         // the next one
    left: i64,            // rows of the one at hand
    row: usize,           // that were read
    bytes: usize,         // that they took as JSON
}

/// (The crate's messages can hold all of a value.)
fn reason(error: ParquetError) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("Parquet error: ").unwrap_or(&text);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.into(),
    }
}

fn open(path: &OsStr) -> Result<MoergeParquet, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let about = file.metadata().map_err(|e| e.to_string())?;
    if !about.is_file() || about.len() > MOST_FILE {
        return Err(format!("no file, or one of more than {} MB", MOST_FILE >> 20));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(MOST_FILE).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    limits::check_footer(&bytes)?;
    let bytes = Bytes::from(bytes);
    let options = ReadOptionsBuilder::new()
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .build();
    let file = SerializedFileReader::new_with_options(bytes.clone(), options).map_err(reason)?;
    limits::check_pages(&bytes, file.metadata())?;
    Ok(MoergeParquet { file, rows: None, group: 0, left: 0, row: 0, bytes: 0 })
}

impl MoergeParquet {
    fn read(&mut self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        while out.len() < BATCH {
            if self.left == 0 {
                if self.group == self.file.num_row_groups() {
                    break;
                }
                self.rows = None;
                let group = self.file.get_row_group(self.group).map_err(reason)?;
                let schema = self.file.metadata().file_metadata().schema_descr_ptr();
                let mut rows = TreeBuilder::new().with_batch_size(VALUES).build(schema, group.as_ref()).map_err(reason)?;
                self.left = group.metadata().num_rows();
                if self.left > 0 {
                    advance(&mut rows).map_err(reason)?;
                }
                self.rows = Some(rows);
                self.group += 1;
                continue;
            }
            let (rows, start) = (self.rows.as_mut().ok_or("no rows")?, out.len());
            write(rows, &mut out, start + MOST_ROW).map_err(|e| format!("row {}: {e}", self.row + 1))?;
            out.push(b'\n');
            self.bytes += out.len() - start;
            self.left -= 1;
            self.row += 1;
            if self.bytes > MOST_TEXT {
                return Err(format!("its rows are more than {} MB of text", MOST_TEXT >> 20));
            }
        }
        Ok(out)
    }
}

/// Is there a further value in the columns below?
fn has_next(reader: &Reader) -> bool {
    match reader {
        Reader::PrimitiveReader(_, column) => column.has_next(),
        Reader::OptionReader(_, inner) | Reader::RepeatedReader(_, _, _, inner) => has_next(inner),
        Reader::GroupReader(_, _, readers) => readers.first().is_some_and(has_next),
        Reader::KeyValueReader(_, _, _, keys, _) => has_next(keys),
    }
}

/// The definition level of the value at hand, and its repetition level.
fn levels(reader: &Reader) -> (i16, i16) {
    match reader {
        Reader::PrimitiveReader(_, column) => (column.current_def_level(), column.current_rep_level()),
        Reader::OptionReader(_, inner) | Reader::RepeatedReader(_, _, _, inner) => levels(inner),
        Reader::GroupReader(_, _, readers) => readers.first().map_or((0, 0), levels),
        Reader::KeyValueReader(_, _, _, keys, _) => levels(keys),
    }
}

fn advance(reader: &mut Reader) -> Result<(), ParquetError> {
    match reader {
        Reader::PrimitiveReader(_, column) => column.read_next().map(|_| ()),
        Reader::OptionReader(_, inner) | Reader::RepeatedReader(_, _, _, inner) => advance(inner),
        Reader::GroupReader(_, _, readers) => readers.iter_mut().try_for_each(advance),
        Reader::KeyValueReader(_, _, _, keys, values) => {
            advance(keys)?;
            advance(values)
        }
    }
}

fn name(reader: &Reader) -> &str {
    match reader {
        Reader::PrimitiveReader(field, _) | Reader::RepeatedReader(field, ..) | Reader::KeyValueReader(field, ..) => field.name(),
        Reader::GroupReader(field, ..) => field.as_ref().map_or("", |field| field.name()),
        Reader::OptionReader(_, inner) => name(inner),
    }
}

/// The value at hand as JSON, at most up to `end` bytes. (The crate's own rows hold all of a value before its size is known.)
fn write(reader: &mut Reader, out: &mut Vec<u8>, end: usize) -> Result<(), String> {
    if out.len() > end {
        return Err(format!("more than {} MB of text", MOST_ROW >> 20));
    }
    match reader {
        Reader::GroupReader(_, _, readers) => {
            out.push(b'{');
            for (i, reader) in readers.iter_mut().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                text(name(reader), out)?;
                out.push(b':');
                write(reader, out, end)?;
            }
            out.push(b'}');
            return Ok(());
        }
        reader if !has_next(reader) => return Err("a column ends before it".into()),
        Reader::PrimitiveReader(field, column) => {
            scalar(&column.current_value().map_err(reason)?, field.name(), out)?;
            column.read_next().map_err(reason)?;
        }
        Reader::OptionReader(level, inner) => {
            if levels(inner).0 > *level {
                write(inner, out, end)?;
            } else {
                advance(inner).map_err(reason)?;
                out.extend(b"null");
            }
        }
        Reader::RepeatedReader(_, definition, repetition, inner) => {
            out.push(b'[');
            let mut first = true;
            loop {
                if levels(inner).0 <= *definition {
                    advance(inner).map_err(reason)?; // an empty list
                    break;
                }
                if !std::mem::replace(&mut first, false) {
                    out.push(b',');
                }
                write(inner, out, end)?;
                if !has_next(inner) || levels(inner).1 <= *repetition {
                    break;
                }
            }
            out.push(b']');
        }
        Reader::KeyValueReader(_, definition, repetition, keys, values) => {
            out.push(b'[');
            let mut first = true;
            loop {
                if levels(keys).0 <= *definition {
                    advance(keys).map_err(reason)?;
                    advance(values).map_err(reason)?;
                    break;
                }
                out.extend(if std::mem::replace(&mut first, false) { &b"["[..] } else { &b",["[..] });
                write(keys, out, end)?;
                out.push(b',');
                write(values, out, end)?;
                out.push(b']');
                if !has_next(keys) || levels(keys).1 <= *repetition {
                    break;
                }
            }
            out.push(b']');
        }
    }
    Ok(())
}

fn text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(out, text).map_err(|e| e.to_string())
}

fn scalar(value: &Field, column: &str, out: &mut Vec<u8>) -> Result<(), String> {
    // What is no number in JSON becomes null.
    let number = |value: f64, out: &mut Vec<u8>| serde_json::to_writer(out, &value).map_err(|e| e.to_string());
    match value {
        Field::Str(value) => text(value, out),
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(value) => text(value, out),
            Err(_) => Err(format!("column \"{column}\" has bytes that are no text")),
        },
        Field::Float(value) => number(f64::from(*value), out),
        Field::Double(value) => number(*value, out),
        Field::Float16(value) => number(f64::from(value.to_f32()), out),
        Field::Null | Field::Bool(_) | Field::Byte(_) | Field::Short(_) | Field::Int(_) | Field::Long(_) | Field::UByte(_)
        | Field::UShort(_) | Field::UInt(_) | Field::ULong(_) => {
            out.extend(value.to_string().as_bytes());
            Ok(())
        }
        other => text(&other.to_string(), out), // times and decimal fractions
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_parquet_open(path: *const c_char, error: *mut *mut c_char) -> *mut MoergeParquet {
    silence_panics();
    guard(error, ptr::null_mut(), || Ok(Box::into_raw(Box::new(open(OsStr::from_bytes(CStr::from_ptr(path).to_bytes()))?))))
}

#[no_mangle]
pub unsafe extern "C" fn moerge_parquet_free(file: *mut MoergeParquet) {
    if !file.is_null() {
        drop(Box::from_raw(file))
    }
}

#[no_mangle]
pub unsafe extern "C" fn moerge_parquet_read(file: *mut MoergeParquet, length: *mut usize, error: *mut *mut c_char) -> *mut u8 {
    guard(error, ptr::null_mut(), || Ok(bytes_out((*file).read()?, length)))
}
