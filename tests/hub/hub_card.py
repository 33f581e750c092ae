"""What the Hub says of a model card's front matter (POST /api/validate-yaml): as much of YAML as cards are made of, and the
fields that the Hub checks. Not a YAML parser: what it cannot judge it lets pass."""
import re

# The ids of https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = set("""apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0
wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc
h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql
ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 grok2-community gemma unknown other""".split())

REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
# A key and what follows it on its line.
FIELD = re.compile(r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s#:\[\]{},"'&*!|>%@`-][^:#]*|-[^\s:][^:]*)\s*:(?:\s+(.*))?$""")
DOUBLE, SINGLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(#.*)?', re.S), re.compile(r"'((?:[^']|'')*)'\s*(#.*)?", re.S)
COMMENT = re.compile(r"(^|\s)#.*$")


class BadYaml(Exception):
    pass


def check_card(content):
    """(errors, warnings), lists of sentences."""
    if not re.match(r"---[ \t]*\r?\n", content):
        return [], ["empty or missing yaml metadata in repo card"]
    lines = content.splitlines()
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return ["Invalid front matter: the closing --- is missing"], []
    try:
        fields = read_fields(lines[1:end])
    except BadYaml as error:
        return [f"YAML Metadata Error: {error}"], []
    errors, warnings = [], []
    if not fields:
        warnings.append("empty or missing yaml metadata in repo card")
    licenses = fields.get("license")
    for name in licenses if isinstance(licenses, list) else [licenses] if "license" in fields else []:
        if name not in LICENSES:
            errors.append(f"\"license\" must be one of the Hub's license ids, found {name!r}")
    for key in ("base_model", "datasets"):
        values = fields.get(key, [])
        for name in values if isinstance(values, list) else [values]:
            if not isinstance(name, str) or not REPO_ID.fullmatch(name):
                kind = "model" if key == "base_model" else "dataset"
                errors.append(f"\"{key}\" with value {name!r} is not valid. Use a {kind} id from https://hf.co/{kind}s.")
    tags = fields.get("tags", [])
    if not isinstance(tags, list):
        errors.append("\"tags\" must be an array")
    elif not all(isinstance(tag, str) and tag for tag in tags):
        errors.append("\"tags\" must be an array of strings")
    if "license_name" in fields and fields.get("license") != "other":
        warnings.append("\"license_name\" is only used with license: other")
    return errors, warnings


def read_fields(lines):
    """The top level of a mapping: name -> text, list of texts, {} for what is nested deeper, or None."""
    if "".join(lines).lstrip().startswith("{"):
        return {"{": {}}  # the whole of it in one flow mapping
    fields, name, taken = {}, None, {}
    for number, line in enumerate(lines, 2):
        where = f"line {number} of the card: "
        if name is None or not (line[:1] in (" ", "\t", "#", "") or line.startswith("- ") or line == "-" or
                                unfinished(taken[name][1])):
            match = FIELD.match(line)
            if not match:
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                raise BadYaml(where + f"expected \"name: value\", found {line.strip()[:60]!r}")
            name = scalar(match[1], where)
            if name in taken:
                raise BadYaml(where + f"duplicated mapping key {name!r}")
            taken[name] = (where, [match[2] or ""])
        else:
            taken[name][1].append(line)
    for name, (where, text) in taken.items():
        fields[name] = read_value(text, where)
    return fields


def unfinished(text):
    """Whether a quoted string or a flow collection goes on in the next line."""
    joined = "\n".join(text).strip()
    if joined[:1] in ("[", "{"):
        return not uncommented(joined).endswith("]" if joined[0] == "[" else "}")
    return joined[:1] in ("'", '"') and not (DOUBLE if joined[0] == '"' else SINGLE).fullmatch(joined)


def read_value(text, where):
    """The value whose first line follows a key; the others follow below it."""
    first, rest = text[0].strip(), [line for line in text[1:] if line.strip() and not line.lstrip().startswith("#")]
    if first[:1] in ("|", ">"):
        return None
    if first[:1] in ("'", '"'):
        return scalar("\n".join(text).strip(), where)
    if any("\t" in line[:len(line) - len(line.lstrip())] for line in rest):
        raise BadYaml(where + "a tab may not indent")
    if first[:1] in ("[", "{"):
        return flow(" ".join([first, *map(str.strip, rest)]), where)
    if COMMENT.sub("", first).strip():
        if any(FIELD.match(line.strip()) for line in rest):
            raise BadYaml(where + "a mapping below a name that has a value already")
        if any(not line[0].isspace() for line in rest):
            raise BadYaml(where + "a list below a name that has a value already")
        return scalar(" ".join([first, *map(str.strip, rest)]), where)
    if not rest:
        return None
    if not re.match(r"\s*-(\s|$)", rest[0]):
        return {}
    indent, items = len(rest[0]) - len(rest[0].lstrip()), []
    for line in rest:
        found, content = len(line) - len(line.lstrip()), line.strip()
        if found == indent and (content == "-" or content.startswith("- ")):
            items.append([content[1:].strip()])
        elif found > indent:
            items[-1].append(line)
        else:
            raise BadYaml(where + f"bad indentation of {content[:60]!r}")
    return [{} if nested(item[0]) else read_value(item, where) for item in items]


def nested(text):
    return FIELD.match(text) is not None or text == "-" or text.startswith("- ")


def uncommented(text):
    """A flow collection without the comment behind it; a # inside of it is taken for part of a string."""
    return text if text.endswith(("]", "}")) else COMMENT.sub("", text).strip()


def flow(text, where):
    text = uncommented(text)
    if not text.endswith("]" if text[0] == "[" else "}"):
        raise BadYaml(where + f"the end of {text[:60]!r} is missing")
    if text[0] == "{":
        return {}
    items = re.findall(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*)\s*(?:,|$)""", text[1:-1])
    return [{} if item[:1] in ("[", "{") else scalar(item.strip(), where) for item in items if item.strip()]


def scalar(text, where):
    if text[:1] in ("'", '"'):
        match = (DOUBLE if text[0] == '"' else SINGLE).fullmatch(text)
        if not match:
            raise BadYaml(where + f"a string that starts with {text[0]} does not end with it")
        return re.sub(r"\\(.)", r"\1", match[1]) if text[0] == '"' else match[1].replace("''", "'")
    text = COMMENT.sub("", text).strip()
    if text[:1] in ("!", "&", "*"):
        return {}
    if re.search(r":\s|:$", text):
        raise BadYaml(where + f"a \": \" inside of a value that is not quoted: {text[:60]!r}")
    if text[:1] in ("@", "`", "%", "]", "}", ","):
        raise BadYaml(where + f"a value may not start with {text[0]!r} unless it is quoted")
    return text
