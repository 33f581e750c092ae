//! What a tokenizer.json may ask for. The tokenizers crate does what a file says, however much memory that takes: steps
//! that each double a text, a table whose size is only claimed. An allocation that fails ends the process.
use serde::Deserialize;
use serde_json::Value;

/// Times that a text, or the list of its tokens, may become longer in all steps together; models stay below 100.
const MOST_GROWTH: f64 = 1000.0;
/// Tokens that a template adds to a text, and bytes that a normalizer puts before it.
const MOST_ADDED: usize = 10_000;
/// Each goes over the whole text.
const MOST_STEPS: usize = 200;

/// (A member that is there twice is refused here; the crate takes the last.)
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Outline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses what is no JSON object and what would not end well; all else is the crate's to say.
pub fn check(json: &str) -> Result<(), String> {
    let outline: Outline = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let count = count_steps(&outline.normalizer) + count_steps(&outline.pre_tokenizer) + count_steps(&outline.decoder);
    if count > MOST_STEPS {
        return Err(format!("it changes texts in {count} steps, at most {MOST_STEPS} are possible"));
    }
    let steps = [
        ("pre_tokenizer", growth(&outline.normalizer)? * growth(&outline.pre_tokenizer)?),
        ("post_processor", growth(&outline.post_processor)?),
        ("decoder", growth(&outline.decoder)?),
    ];
    match steps.iter().find(|step| step.1 > MOST_GROWTH) {
        Some(("pre_tokenizer", _)) => Err(format!("its normalizer and pre_tokenizer make texts more than {MOST_GROWTH} times longer")),
        Some((name, _)) => Err(format!("its {name} makes texts more than {MOST_GROWTH} times longer")),
        None => Ok(()),
    }
}

fn count_steps(step: &Value) -> usize {
    match step {
        Value::Object(members) => 1 + members.values().map(count_steps).sum::<usize>(),
        Value::Array(items) => items.iter().map(count_steps).sum(),
        _ => 0,
    }
}

/// How many times longer a step and all that is in it can make a text.
fn growth(step: &Value) -> Result<f64, String> {
    let inner: Vec<&Value> = match step {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return Ok(1.0),
    };
    let mut factor = own_growth(step)?;
    for value in inner {
        factor *= growth(value)?;
    }
    Ok(factor)
}

/// Steps are known by their members: the crate reads some without "type" too.
fn own_growth(step: &Value) -> Result<f64, String> {
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    if step.get("pattern").is_some() && step.get("content").is_some() {
        let content = length(&step["content"]) as f64;
        let replaced = length(&step["pattern"]["String"]) as f64;
        // An expression (or no text at all) may match between any two characters.
        return Ok(if replaced > 0.0 { (content / replaced).max(1.0) } else { 1.0 + content });
    }
    if length(&step["prepend"]) > MOST_ADDED {
        return Err(format!("its normalizer puts {} bytes before a text", length(&step["prepend"])));
    }
    if let Some(table) = step.get("precompiled_charsmap").and_then(Value::as_str) {
        return longest_replacement(table);
    }
    if let (Some(Value::Array(single)), Some(Value::Array(pair))) = (step.get("single"), step.get("pair")) {
        let added = |pieces: &[Value]| -> usize {
            let ids = |piece: &Value| step["special_tokens"][piece["SpecialToken"]["id"].as_str()?]["ids"].as_array().map(Vec::len);
            pieces.iter().filter_map(ids).sum()
        };
        let most = added(single).max(added(pair));
        if most > MOST_ADDED {
            return Err(format!("its post_processor adds {most} tokens to a text, at most {MOST_ADDED} are possible"));
        }
        let texts = |pieces: &[Value]| pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        return Ok(texts(single).max(texts(pair) / 2).max(1) as f64);
    }
    // Bytes become letters of up to two bytes.
    let is_byte_level = step["type"] == "ByteLevel" || step.get("trim_offsets").is_some();
    Ok(if is_byte_level { 2.0 } else { 1.0 })
}

/// SentencePiece's table: the size of a trie (u32), the trie, texts that end with a null character.
fn longest_replacement(base64: &str) -> Result<f64, String> {
    let Ok(table) = base64::decode(base64) else { return Ok(1.0) };
    let size = table.get(..4).map_or(0, |size| u32::from_le_bytes([size[0], size[1], size[2], size[3]])) as usize;
    let texts = table.get(4 + size..).ok_or("its precompiled_charsmap is cut off")?;
    Ok(texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1) as f64)
}
