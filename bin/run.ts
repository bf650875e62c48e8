/** `qwen3 run`: one answer. */
import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { ChatMessage, ChatStream, Tool } from '../lib/index'
import { jsonResult, printAnswer, statsLines, thinkingOutput } from './common/answer'
import { UsageError } from './common/exit'
import {
  type AnswerFlags,
  addAnswerFlags,
  addLoadFlags,
  answerOptions,
  defined,
  examples,
  integer,
  type LoadFlags,
} from './common/flags'
import { readStdin, stdinIsPiped } from './common/input'
import { interruptible } from './common/interrupt'
import { loadModel } from './common/load'

interface RunFlags extends LoadFlags, AnswerFlags {
  system?: string
  tools?: string
  raw?: boolean
  stdin: boolean
  showThinking?: boolean
  json?: boolean
  logprobs?: number | true
  stats?: boolean
  quiet?: boolean
}

export function addRun(program: Command): void {
  const command = program
    .command('run')
    .summary('one answer')
    .description(
      'Answers one prompt. The prompt comes from the arguments, from stdin, or from both: then the arguments come first and ' +
        'the piped text follows. On a terminal the thinking is printed dimmed; into a pipe goes the answer alone.',
    )
    .argument('[prompt...]', 'the prompt; words are joined with spaces')
    .option('--system <text>', 'a system message')
    .option(
      '--tools <file>',
      'JSON list of tools in the shape of the OpenAI API; calls are printed as one JSON line each',
    )
    .option('--raw', 'no chat template: continue the prompt as it is')
    .option('--no-stdin', 'do not read stdin')
    .option('--show-thinking', 'print the thinking into a pipe too (on stderr)')
    .option('--hide-thinking', 'do not print the thinking')
    .option('--json', 'print one JSON object: thinking, text, toolCalls, ids, usage, ...')
    .option('--logprobs [n]', 'with --json: log-probability of each token, with n alternatives', integer)
    .option('--stats', 'print token counts and tokens per second to stderr')
    .option('-q, --quiet', 'no note about the demo model')
    .action((words: string[], flags: RunFlags & { hideThinking?: boolean }) =>
      run(words, { ...flags, showThinking: flags.hideThinking ? false : flags.showThinking }),
    )
  addLoadFlags(addAnswerFlags(command))
  examples(command, [
    ["qwen3 run 'What is 12+30-7?'", 'one answer of the built-in demo model'],
    ["qwen3 run --budget 64 'What is 12+30-7?'", 'think for at most 64 tokens'],
    ["qwen3 run --no-think 'What is 12+30-7?'", 'answer at once'],
    ['qwen3 run -m ./Qwen3-0.6B "Summarise:" < notes.txt', 'a real model; prompt and piped text'],
    ['qwen3 run -m ./Qwen3-0.6B --speculate "Fix the typos:" < a.txt', 'an answer that repeats its prompt, sooner'],
    ["qwen3 run --json 'What is 2+2?' | jq .usage", 'for programs'],
  ])
}

async function run(words: string[], flags: RunFlags): Promise<void> {
  const prompt = await promptText(words, flags.stdin)
  const tools = flags.tools ? await readTools(flags.tools) : undefined
  await interruptible(async (signal) => {
    const model = await loadModel(flags, { signal, quiet: flags.quiet })
    try {
      const options = {
        ...answerOptions(flags),
        signal,
        ...defined({ logprobs: flags.logprobs }),
      }
      const messages: ChatMessage[] = [{ role: 'user', content: prompt }]
      if (flags.system !== undefined) messages.unshift({ role: 'system', content: flags.system })
      const stream: ChatStream = flags.raw
        ? model.generate(prompt, options)
        : model.chat(messages, { ...options, tools })
      const result = flags.json ? await stream.result() : await printAnswer(stream, thinkingOutput(flags.showThinking))
      if (flags.json) process.stdout.write(`${jsonResult(flags.model, result)}\n`)
      if (flags.stats) process.stderr.write(statsLines(result))
    } finally {
      await model.close()
    }
  })
}

async function promptText(words: string[], mayReadStdin: boolean): Promise<string> {
  const piped = mayReadStdin && stdinIsPiped() ? (await readStdin()).replace(/\n$/, '') : ''
  const prompt = [words.join(' '), piped].filter((part) => part !== '').join('\n\n')
  if (prompt === '') throw new UsageError("there is no prompt. Try: qwen3 run 'What is 12+30-7?'")
  return prompt
}

async function readTools(path: string): Promise<Tool[]> {
  const text = await readFile(path, 'utf8')
  try {
    return JSON.parse(text) as Tool[] // the library validates the shape
  } catch (error) {
    throw new UsageError(`${path} is not JSON: ${(error as Error).message}`)
  }
}
