//! What a Parquet file may ask for. The parquet crate allocates what a footer or the header of a page says, and follows a
//! schema as deep as it goes: both end the process when a file lies. So the file is looked through before.
use parquet::{
    basic::Compression,
    file::metadata::{ColumnChunkMetaData, ParquetMetaData},
};

const MOST_FOOTER: usize = 16 << 20;
/// In a footer: nodes of the schema, how deep they nest, and structs of any kind.
const MOST_NODES: usize = 10_000;
const MOST_DEPTH: usize = 32;
const MOST_STRUCTS: usize = 500_000;
/// Nothing that is read nests its thrift deeper.
const MOST_THRIFT_DEPTH: usize = 16;
/// Bytes of a page, and of all pages of a file, without compression.
const MOST_PAGE: u64 = 64 << 20;
const MOST_BYTES: u64 = 2 << 30;
const MOST_PAGES: usize = 1_000_000;
/// Bytes that are held while a group of rows is read, and what a value takes beside its bytes.
const MOST_MEMORY: u64 = 1 << 30;
const VALUE_BYTES: u64 = 32;
pub const MOST_ROWS: i64 = 2_000_000;

type Result<T> = std::result::Result<T, String>;

/// Thrift's compact protocol, as far as Parquet uses it.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    structs: usize,
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

impl<'a> Thrift<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, structs: 0 }
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or("it is cut off")?;
        self.at += 1;
        Ok(byte)
    }

    fn pass(&mut self, count: u64) -> Result<()> {
        if count > (self.bytes.len() - self.at) as u64 {
            return Err("it is cut off".into());
        }
        self.at += count as usize;
        Ok(())
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err("a number in it has no end".into())
    }

    fn signed(&mut self) -> Result<i64> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number that counts something.
    fn count(&mut self, kind: u8) -> Result<u64> {
        let value = if kind == I32 { self.signed()? } else { -1 };
        u64::try_from(value).ok().filter(|value| *value <= i32::MAX as u64).ok_or("a count in it is none".into())
    }

    fn list(&mut self) -> Result<(usize, u8)> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
        if size > (self.bytes.len() - self.at) as u64 {
            return Err("a list in it is longer than the file".into());
        }
        Ok((size as usize, head & 15))
    }

    /// The fields of a struct; `each` says whether it has read the value.
    fn fields(&mut self, depth: usize, mut each: impl FnMut(&mut Self, i64, u8) -> Result<bool>) -> Result<()> {
        self.structs += 1;
        if self.structs > MOST_STRUCTS || depth > MOST_THRIFT_DEPTH {
            return Err("it describes more than a data set has".into());
        }
        let mut id = 0;
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == 0 {
                return Ok(());
            }
            id = if head >> 4 == 0 { self.signed()? } else { id + i64::from(head >> 4) };
            if !each(self, id, kind)? {
                self.skip(kind, depth)?;
            }
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        match kind {
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.number().map(|_| ()),
            7 => self.pass(8),
            8 => {
                let size = self.number()?;
                self.pass(size)
            }
            LIST | 10 => {
                let (size, kind) = self.list()?;
                for _ in 0..size {
                    // Truth values have no byte as fields, one in a list.
                    match kind {
                        1 | 2 => self.pass(1)?,
                        LIST | 10 => return Err("it has lists of lists".into()),
                        _ => self.skip(kind, depth + 1)?,
                    }
                }
                Ok(())
            }
            STRUCT => self.fields(depth + 1, |_, _, _| Ok(false)),
            13 => self.pass(16),
            _ => Err("it is no Parquet".into()),
        }
    }
}

/// The footer, before the crate sees it.
pub fn check_footer(file: &[u8]) -> Result<()> {
    let Some((rest, tail)) = file.split_last_chunk::<8>().filter(|(rest, tail)| rest.starts_with(b"PAR1") && &tail[4..] == b"PAR1") else {
        let encrypted = file.starts_with(b"PARE") || file.ends_with(b"PARE");
        return Err(if encrypted { "an encrypted Parquet file" } else { "no Parquet file, or cut off: it should begin and end with PAR1" }.into());
    };
    let size = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    if size > rest.len() || size > MOST_FOOTER {
        return Err(format!("its footer of {size} bytes cannot be"));
    }
    let mut thrift = Thrift::new(&rest[rest.len() - size..]);
    let mut schemas = 0;
    thrift
        .fields(0, |thrift, id, kind| {
            if id != 2 {
                return Ok(false);
            }
            schemas += 1;
            if kind != LIST || schemas > 1 {
                return Err("its schema is none".into());
            }
            check_schema(thrift)?;
            Ok(true)
        })
        .map_err(|e| format!("its footer is damaged: {e}"))
}

/// Nodes of a tree, each before its children.
fn check_schema(thrift: &mut Thrift) -> Result<()> {
    let (size, kind) = thrift.list()?;
    if kind != STRUCT || size > MOST_NODES {
        return Err(format!("a schema of {size} nodes, at most {MOST_NODES} are possible"));
    }
    let mut open = Vec::new(); // children that are still to come, by level
    for _ in 0..size {
        let mut children = None;
        thrift.fields(1, |thrift, id, kind| {
            if id != 5 {
                return Ok(false);
            }
            if children.replace(thrift.count(kind)? as usize).is_some() {
                return Err("a node of its schema says twice how many children it has".into());
            }
            Ok(true)
        })?;
        let children = children.unwrap_or(0);
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(children);
        if children > size || open.len() > MOST_DEPTH {
            return Err(format!("its schema nests too deep (more than {MOST_DEPTH} levels), or has children that are not there"));
        }
    }
    Ok(())
}

/// What one page has, from its header.
#[derive(Default)]
struct Page {
    header: usize,
    bytes: u64,
    stored: u64,
    values: u64,
    is_dictionary: bool,
}

fn read_page(bytes: &[u8]) -> Result<Page> {
    let mut thrift = Thrift::new(bytes);
    let mut page = Page::default();
    let mut sizes = 0;
    thrift.fields(0, |thrift, id, kind| {
        match id {
            2 => page.bytes = page.bytes.max(thrift.count(kind)?),
            3 => {
                page.stored = thrift.count(kind)?;
                sizes += 1;
            }
            5 | 7 | 8 if kind == STRUCT => {
                page.is_dictionary |= id == 7;
                let encoding = if id == 8 { 4 } else { 2 };
                thrift.fields(1, |thrift, field, kind| {
                    if field == 1 {
                        page.values = page.values.max(thrift.count(kind)?);
                    } else if field == encoding {
                        // Deltas of texts can become any length, and their lengths are only claimed.
                        let number = thrift.count(kind)?;
                        if number == 6 || number == 7 {
                            return Err("its texts are stored as deltas, which moerge does not read; write the file with plain or dictionary encoding".into());
                        }
                    } else {
                        return Ok(false);
                    }
                    Ok(true)
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if sizes != 1 {
        return Err("a page has no size, or several".into());
    }
    page.header = thrift.at;
    Ok(page)
}

/// The pages of all columns, before the crate reads any of them.
pub fn check_pages(file: &[u8], metadata: &ParquetMetaData) -> Result<()> {
    let (mut rows, mut pages, mut bytes) = (0i64, 0usize, 0u64);
    for group in metadata.row_groups() {
        if group.num_rows() < 0 || group.num_rows() > MOST_ROWS - rows {
            return Err(format!("it has more than {MOST_ROWS} rows, or a number that is none"));
        }
        rows += group.num_rows();
        let mut memory = 0;
        for column in group.columns() {
            let name = column.column_path().string();
            check_codec(column)?;
            let (start, size) = column.byte_range();
            let end = start.checked_add(size).filter(|end| *end <= file.len() as u64);
            let Some(end) = end else { return Err(format!("column \"{name}\" lies beyond the end of the file")) };
            let (mut at, mut values, mut largest, mut dictionary) = (start as usize, 0u64, 0u64, 0u64);
            while at < end as usize {
                let page = read_page(&file[at..end as usize]).map_err(|e| format!("column \"{name}\": {e}"))?;
                pages += 1;
                bytes += page.bytes;
                at += page.header;
                if page.stored > end - at as u64 || page.bytes > MOST_PAGE || bytes > MOST_BYTES || pages > MOST_PAGES {
                    return Err(format!("column \"{name}\": a page of {} bytes, {} of them stored, cannot be or is too much", page.bytes, page.stored));
                }
                at += page.stored as usize;
                if page.is_dictionary {
                    dictionary += page.bytes + page.values * VALUE_BYTES;
                } else {
                    values += page.values;
                    largest = largest.max(page.bytes);
                }
            }
            // All of a list is held at once, and nothing says where one ends.
            let held = if column.column_descr().max_rep_level() > 0 { values } else { 0 };
            memory += largest + dictionary + held * VALUE_BYTES;
            if memory > MOST_MEMORY {
                return Err(format!("a group of its rows needs more than {} MB of memory", MOST_MEMORY >> 20));
            }
        }
    }
    Ok(())
}

fn check_codec(column: &ColumnChunkMetaData) -> Result<()> {
    match column.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => Ok(()),
        other => {
            let name = format!("{other:?}");
            let name = name.split('(').next().unwrap_or_default();
            Err(format!("it is compressed with {name}; moerge reads snappy, zstd and none"))
        }
    }
}
