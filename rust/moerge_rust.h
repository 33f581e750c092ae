#pragma once
/* The C interface of the Rust library: the Hugging Face `tokenizers` crate. Panics stop at this border; every failure
   is a null (or zero) result with a message in *error, which the caller frees. Texts are UTF-8. A tokenizer is immutable
   and may be used from several threads. */
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
/* Tokens of either vocabulary that the other lacks or numbers differently; *example gets one of them, or null. */
size_t moerge_tokenizer_difference(const MoergeTokenizer *, const MoergeTokenizer *, char **example);
void moerge_free_ids(uint32_t *, size_t count);
void moerge_free_text(char *);

#ifdef __cplusplus
}
#endif
