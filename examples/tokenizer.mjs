// The tokenizer alone: no model is loaded. Any folder with a tokenizer.json, or vocab.json and merges.txt.

import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { Tokenizer } from 'qwen3'

const nano = join(dirname(createRequire(import.meta.url).resolve('qwen3/package.json')), 'models/nano')
const tokenizer = await Tokenizer.load(nano)
const ids = tokenizer.encode('Größe: 12 + 30 ≤ 42 🙂')
console.log(`${ids.length} tokens: ${ids.join(' ')}`)
console.log(tokenizer.decode(ids))
console.log(
  'as text:',
  tokenizer.encode('<|im_end|>').length,
  'tokens; as a control token:',
  tokenizer.encode('<|im_end|>', { parseSpecial: true }).length,
)
