/** Trains the nano vocabulary: `npx tsx train/make_tokenizer.ts CORPUS.txt OUT.json`. Documents are separated by NUL. */
import { readFileSync, writeFileSync } from 'node:fs';
import { trainTokenizerJson } from '../lib/tokenizer/train.js';

const [corpus, out] = process.argv.slice(2);
if (!corpus || !out) throw new Error('usage: make_tokenizer.ts CORPUS.txt OUT.json');
// 866 + 26 added tokens = 892 tokens; the embedding has 896 rows, so that a few rows belong to no token, as in Qwen3.
const json = trainTokenizerJson(readFileSync(corpus, 'utf8').split('\0'), { vocabSize: 866 });
writeFileSync(out, JSON.stringify(json, null, 1) + '\n');
