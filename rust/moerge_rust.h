#pragma once
/* The C interface of the Rust library: the crates `tokenizers`, `regex`, `parquet` and, at its end, `hf-xet`. Panics stop at this border; every failure
   is a null (or zero) result with a message in *error, which the caller frees. Texts are UTF-8. A tokenizer may be
   used from several threads unless a function says otherwise. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct MoergeTokenizer MoergeTokenizer;

/* Truncation and padding that a tokenizer.json may ask for are switched off. */
MoergeTokenizer *moerge_tokenizer_from_json(const char *json, size_t length, char **error);
void moerge_tokenizer_free(MoergeTokenizer *);
uint32_t *moerge_tokenizer_encode(const MoergeTokenizer *, const char *text, size_t length, bool add_special,
                                  size_t *count, char **error);
/* Added tokens included. */
size_t moerge_tokenizer_vocab_size(const MoergeTokenizer *);
/* Without the added tokens that the model itself (its "vocab") does not have. */
size_t moerge_tokenizer_model_size(const MoergeTokenizer *);
/* Tokens of either vocabulary that the other lacks or numbers differently; *example gets one of them, or null. */
size_t moerge_tokenizer_difference(const MoergeTokenizer *, const MoergeTokenizer *, char **example);
/* Tokens as records, one after another: id, flags and length (uint32_t each, native byte order), then the text. */
enum { MOERGE_ADDED = 1, MOERGE_SPECIAL = 2, MOERGE_NORMALIZED = 4, MOERGE_SINGLE_WORD = 8, MOERGE_LSTRIP = 16,
       MOERGE_RSTRIP = 32 };
/* Every token, by ascending id. Flags other than MOERGE_ADDED are set for added tokens only. */
uint8_t *moerge_tokenizer_tokens(const MoergeTokenizer *, size_t *length, char **error);
/* The records' ids are ignored: a token that the vocabulary has keeps its id and gets these flags, others are numbered on
   from the end of the vocabulary. Not for a tokenizer that other threads use. */
bool moerge_tokenizer_add_tokens(MoergeTokenizer *, const uint8_t *records, size_t length, char **error);
/* Special tokens are kept, ids outside the vocabulary skipped. The result may hold null bytes. */
uint8_t *moerge_tokenizer_decode(const MoergeTokenizer *, const uint32_t *ids, size_t count, size_t *length, char **error);
void moerge_free_bytes(uint8_t *, size_t length);
void moerge_free_ids(uint32_t *, size_t count);
void moerge_free_text(char *);

/* Regular expressions in linear time; any number of threads may use one. */
typedef struct MoergeRegex MoergeRegex;

MoergeRegex *moerge_regex_new(const char *pattern, size_t length, char **error);
void moerge_regex_free(MoergeRegex *);
/* Of each match, the match itself included. */
size_t moerge_regex_groups(const MoergeRegex *);
/* Where the groups of each match begin and end, one match after another: two size_t each in native byte order, both
   SIZE_MAX for a group that took no part. `length` counts the result's bytes; moerge_free_bytes() frees it. */
uint8_t *moerge_regex_find(const MoergeRegex *, const char *text, size_t text_length, size_t most, size_t *length,
                           char **error);
/* The text with every match replaced by exactly `by`. */
uint8_t *moerge_regex_replace(const MoergeRegex *, const char *text, size_t text_length, const char *by, size_t by_length,
                              size_t *length, char **error);

/* The rows of a Parquet file as JSON objects, one a line: lists, structs, numbers, truth values, texts (bytes too, where
   they are UTF-8), null; a map as a list of pairs; times and decimal fractions as texts. */
typedef struct MoergeParquet MoergeParquet;

MoergeParquet *moerge_parquet_open(const char *path, char **error);
void moerge_parquet_free(MoergeParquet *);
/* The next rows, about a megabyte of them; of length 0 when there are no more. After a failure the file is not for reading. */
uint8_t *moerge_parquet_read(MoergeParquet *, size_t *length, char **error);

/* Xet; only in a library that was built with the feature `xet`. Strings end with a null character; paths are bytes.
   The Hub's `token` may be empty. `refresh_url` answers it with a token of the storage, again whenever one runs out. */

/* Called on the caller's thread several times a second. It must not throw; anything but 0 aborts the transfer. */
typedef int (*MoergeXetProgress)(void *user, uint64_t done, uint64_t total);
/* sha256[i] is that of the file paths[i], which is taken at its word. True once the storage has all the content. */
bool moerge_xet_upload(const char *refresh_url, const char *token, const char *const *paths, const char *const *sha256,
                       size_t count, MoergeXetProgress, void *user, char **error);
bool moerge_xet_download(const char *refresh_url, const char *token, const char *hash, uint64_t size, const char *target,
                         MoergeXetProgress, void *user, char **error);

#ifdef __cplusplus
}
#endif
