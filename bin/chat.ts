/** `qwen3 chat`: a conversation. */
import { readFile, writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { type ChatMessage, type ChatOptions, type Qwen3, Qwen3Error } from '../lib/index'
import { printAnswer, statsLines, type ThinkingOutput, thinkingOutput } from './common/answer'
import { explain, UsageError } from './common/exit'
import { type AnswerFlags, addAnswerFlags, addLoadFlags, answerOptions, examples, type LoadFlags } from './common/flags'
import { LineReader } from './common/lines'
import { loadModel } from './common/load'
import { styled } from './common/terminal'

interface ChatFlags extends LoadFlags, AnswerFlags {
  system?: string
  load?: string
  hideThinking?: boolean
  showThinking?: boolean
  stats?: boolean
  quiet?: boolean
}

export function addChat(program: Command): void {
  const command = program
    .command('chat')
    .summary('a conversation')
    .description(
      'Talks with a model; earlier turns are remembered. Ctrl-C stops the answer and not the program; /exit or Ctrl-D ends it.\n' +
        'With stdin from a pipe every line is a turn.',
    )
    .option('--system <text>', 'a system message')
    .option('--load <file>', 'go on with a conversation saved by /save')
    .option('--show-thinking', 'print the thinking into a pipe too (on stderr)')
    .option('--hide-thinking', 'do not print the thinking')
    .option('--stats', 'print token counts and tokens per second after each answer')
    .option('-q, --quiet', 'no note about the demo model')
    .addHelpText('after', `\nIn the conversation:\n${commandHelp}`)
    .action(chat)
  addLoadFlags(addAnswerFlags(command))
  examples(command, [
    ['qwen3 chat', 'with the built-in demo model'],
    ['qwen3 chat -m ./Qwen3-0.6B --budget 512', 'a real model that thinks for at most 512 tokens'],
    ['qwen3 chat -m ./Qwen3-0.6B --system "Answer in French."', 'with a system message'],
  ])
}

const commandHelp = `  /think, /no_think   think before answering, or not; with text behind it: for that and the next turns
  /budget N           at most N tokens of thinking; /budget off: no limit
  /system TEXT        set the system message; without text: remove it
  /clear              forget the conversation
  /save FILE          write the conversation to a file; /load FILE goes on with it
  /stats              print counts and speed after each answer, or stop it
  /help               this list
  /exit               end (also Ctrl-D)
  A line that ends in \\ goes on in the next one.
`

async function chat(flags: ChatFlags): Promise<void> {
  const loading = new AbortController()
  const stopLoading = () => loading.abort(new Error('interrupted'))
  process.once('SIGINT', stopLoading)
  const model = await loadModel(flags, { signal: loading.signal, quiet: flags.quiet })
  process.off('SIGINT', stopLoading)
  const conversation = new Conversation(model, flags)
  try {
    if (flags.load) await conversation.load(flags.load)
    await conversation.talk()
  } finally {
    await model.close()
  }
}

/** What `/save` writes. */
interface SavedConversation {
  version: 1
  messages: ChatMessage[]
}

class Conversation {
  private messages: ChatMessage[] = []
  private readonly options: ChatOptions
  private readonly thinkingTo: ThinkingOutput
  private stats: boolean
  /** Stops the answer that is being generated, if there is one. */
  private stopAnswer: (() => void) | undefined
  private readonly lines = new LineReader()

  constructor(
    private readonly model: Qwen3,
    flags: ChatFlags,
  ) {
    this.options = answerOptions(flags)
    this.thinkingTo = thinkingOutput(flags.hideThinking ? false : flags.showThinking)
    this.stats = flags.stats === true
    if (flags.system !== undefined) this.setSystem(flags.system)
  }

  async talk(): Promise<void> {
    const onInterrupt = () => {
      if (this.stopAnswer) this.stopAnswer()
      else if (!this.lines.interactive) process.exit(130)
    }
    process.on('SIGINT', onInterrupt)
    try {
      if (this.lines.interactive) this.note('/help lists the commands; Ctrl-C stops an answer; /exit ends.')
      for (;;) {
        const line = await this.lines.next(styled(process.stdout, 'bold', '> '))
        if (line === undefined) return
        if (line.trim() === '') continue
        if ((await this.obey(line.trim())) === 'exit') return
      }
    } finally {
      process.off('SIGINT', onInterrupt)
      this.lines.close()
    }
  }

  /** Carries out a command, or asks the model. */
  private async obey(line: string): Promise<'exit' | undefined> {
    const [, name, rest = ''] = /^(\/\w+)(?:\s+([\s\S]*))?$/.exec(line) ?? []
    try {
      switch (name) {
        case '/exit':
        case '/quit':
          return 'exit'
        case '/help':
          process.stdout.write(commandHelp)
          break
        case '/think':
        case '/no_think':
          this.options.thinking = name === '/think'
          if (rest) await this.ask(rest)
          else this.note(name === '/think' ? 'thinking is on' : 'thinking is off')
          break
        case '/budget':
          this.setBudget(rest)
          break
        case '/system':
          this.setSystem(rest)
          this.note(rest ? 'the system message is set' : 'the system message is removed')
          break
        case '/clear':
          this.messages = this.messages.filter((message) => message.role === 'system')
          this.note('the conversation is forgotten')
          break
        case '/save':
          await this.save(rest)
          break
        case '/load':
          await this.load(rest)
          break
        case '/stats':
          this.stats = !this.stats
          this.note(this.stats ? 'statistics after each answer' : 'no statistics')
          break
        default:
          if (name) throw new UsageError(`there is no command ${name}; /help lists them`)
          await this.ask(line)
      }
    } catch (error) {
      // A turn that fails does not end the conversation; in a pipe the exit code remembers it.
      const code = explain(error)
      if (!this.lines.interactive) process.exitCode = code
    }
    return undefined
  }

  private async ask(text: string): Promise<void> {
    this.messages.push({ role: 'user', content: text })
    const before = this.messages.length
    const controller = new AbortController()
    this.stopAnswer = () => controller.abort(new Error('interrupted'))
    try {
      const stream = this.model.chat(this.messages, { ...this.options, signal: controller.signal })
      const result = await printAnswer(stream, this.thinkingTo)
      this.messages.push(result.message)
      if (this.stats) process.stderr.write(statsLines(result))
    } catch (error) {
      if (!(error instanceof Qwen3Error && error.code === 'ABORTED' && controller.signal.aborted)) {
        this.messages.length = before - 1
        if (error instanceof Qwen3Error && error.code === 'CONTEXT_OVERFLOW')
          this.note('/clear forgets the conversation so far.')
        throw error
      }
      // What was said until Ctrl-C stays in the conversation, so that the next turn can refer to it.
      const partial = (error as Qwen3Error & { partial?: { text: string } }).partial
      this.messages.push({ role: 'assistant', content: partial?.text ?? '' })
      this.note('(stopped)')
    } finally {
      this.stopAnswer = undefined
    }
  }

  private setBudget(text: string): void {
    if (text === 'off' || text === 'none') {
      delete this.options.thinkingBudget
      this.note('thinking is unlimited')
      return
    }
    if (!/^\d+$/.test(text)) throw new UsageError('/budget expects a number of tokens, or off')
    this.options.thinkingBudget = Number(text)
    this.note(`at most ${text} tokens of thinking`)
  }

  private setSystem(text: string): void {
    this.messages = this.messages.filter((message) => message.role !== 'system')
    if (text) this.messages.unshift({ role: 'system', content: text })
  }

  private async save(file: string): Promise<void> {
    if (!file) throw new UsageError('/save expects a file name')
    const saved: SavedConversation = { version: 1, messages: this.messages }
    await writeFile(file, `${JSON.stringify(saved, null, 2)}\n`)
    this.note(`${this.messages.length} messages written to ${file}`)
  }

  async load(file: string): Promise<void> {
    if (!file) throw new UsageError('/load expects a file name')
    this.messages = parseSaved(await readFile(file, 'utf8'), file)
    this.note(`${this.messages.length} messages read from ${file}`)
  }

  /** A remark of the program, never part of the model's output. */
  private note(text: string): void {
    process.stderr.write(`${styled(process.stderr, 'dim', text)}\n`)
  }
}

/** The messages of a saved conversation; a file that is none is refused before anything is replaced. */
function parseSaved(text: string, file: string): ChatMessage[] {
  let saved: Partial<SavedConversation> | null
  try {
    saved = JSON.parse(text) as Partial<SavedConversation> | null
  } catch (error) {
    throw new UsageError(`${file} is not JSON: ${(error as Error).message}`)
  }
  const roles = ['system', 'developer', 'user', 'assistant', 'tool']
  const valid =
    saved?.version === 1 &&
    Array.isArray(saved.messages) &&
    saved.messages.every((message) => typeof message === 'object' && message !== null && roles.includes(message.role))
  if (!valid) throw new UsageError(`${file} is not a conversation saved by /save (version 1)`)
  return saved!.messages!
}
