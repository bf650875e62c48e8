/** `qwen3 tokenize`: text to token ids, or back. */
import type { Command } from 'commander'
import { Tokenizer } from '../lib/index'
import { UsageError } from './common/exit'
import { examples } from './common/flags'
import { readStdin, stdinIsPiped } from './common/input'
import { modelDirectory } from './common/models'
import { printable, styled } from './common/terminal'

interface TokenizeFlags {
  model: string
  decode?: boolean
  special?: boolean
  count?: boolean
  json?: boolean
}

export function addTokenize(program: Command): void {
  const command = program
    .command('tokenize')
    .summary('text to token ids, or back')
    .description(
      'Shows how a model reads a text: one line per token with its id and its text. The text comes from the arguments or stdin.',
    )
    .argument('[text...]', 'the text; with --decode: token ids')
    .option('-m, --model <name>', 'nano, nano-moe, or the path of a model directory', 'nano')
    .option('-d, --decode', 'turn token ids into text')
    .option('--special', 'read control tokens such as <|im_end|> in the text as tokens')
    .option('--count', 'print the number of tokens only')
    .option('--json', 'print one JSON list of ids')
    .action(tokenize)
  examples(command, [
    ["qwen3 tokenize 'Hello, world'", 'ids and texts of the demo vocabulary'],
    ['qwen3 tokenize -m ./Qwen3-0.6B --count < book.txt', 'how many tokens is this book?'],
    ["qwen3 tokenize --json --special '<|im_end|>'", 'control tokens'],
    ['qwen3 tokenize --decode 72 101 108', 'back to text'],
  ])
}

async function tokenize(words: string[], flags: TokenizeFlags): Promise<void> {
  if (words.length === 0 && !stdinIsPiped())
    throw new UsageError("there is no text. Try: qwen3 tokenize 'Hello, world'")
  const input = words.length > 0 ? words.join(' ') : await readStdin()
  const tokenizer = await Tokenizer.load(await modelDirectory(flags.model))
  if (flags.decode) {
    process.stdout.write(`${printable(process.stdout, tokenizer.decode(parseIds(input)))}\n`)
    return
  }
  const ids = tokenizer.encode(input, { parseSpecial: flags.special === true })
  if (flags.count) process.stdout.write(`${ids.length}\n`)
  else if (flags.json) process.stdout.write(`${JSON.stringify([...ids])}\n`)
  else for (const id of ids) process.stdout.write(line(id, tokenizer.decode(Int32Array.of(id))))
}

/** A token's own text in JSON quotes, so that spaces and line ends can be seen; parts of a character show as U+FFFD. */
function line(id: number, text: string): string {
  return `${String(id).padStart(7)}  ${styled(process.stdout, 'cyan', JSON.stringify(printable(process.stdout, text)))}\n`
}

function parseIds(text: string): Int32Array {
  const parts = text.split(/[\s,[\]]+/).filter((part) => part !== '')
  const ids = parts.map(Number)
  const wrong = parts.find((_, index) => !Number.isInteger(ids[index]) || ids[index]! < 0 || ids[index]! > 0x7fffffff)
  if (wrong !== undefined) throw new UsageError(`--decode expects token ids, not ${JSON.stringify(wrong)}`)
  return Int32Array.from(ids)
}
