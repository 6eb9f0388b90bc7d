# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mcp_profiler_global_optspecs
    string join \n h/help V/version
end

function __fish_mcp_profiler_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mcp_profiler_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mcp_profiler_using_subcommand
    set -l cmd (__fish_mcp_profiler_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -s V -l version -d 'Print version'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "record" -d 'Record a server into a file'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "profile" -d 'Record a server, then report'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "start" -d 'Record in the background, also when this terminal is closed'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "status" -d 'Show background recordings'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "stop" -d 'End a background recording and keep what it has'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "top" -d 'Show what goes on now: calls, times and CPU of each tool'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "cpu" -d 'Show where CPU time goes: hot paths and top functions'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "report" -d 'Report on a recording, or record first'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "calls" -d 'List calls one by one, the slowest first'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "trace" -d 'Show one call: its time, its CPU, its stacks'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "diagnose" -d 'Say why calls are slow, or why they fail'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "call-tree" -d 'Show who calls whom, with the time spent there'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "startup" -d 'Start a server and show where the time to its first replies goes'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "flame-graph" -d 'Draw a flame graph, or the difference of two'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "export" -d 'Write a recording in the format of another tool'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "list" -d 'Show configured and running MCP servers'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "doctor" -d 'Say whether this machine can be profiled on, and what to do if not'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "demo" -d 'Profile a bundled MCP server under load'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "demo-server" -d 'The server that `demo` profiles'
complete -c mcp-profiler -n "__fish_mcp_profiler_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -s o -l output -d 'File to write [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l state -d 'Tells `status` how far the recording is' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand record" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l operations -d 'Report on calls of these tools (prompts, resources, methods) only, separated by commas' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l samples -d 'End after so many calls: of the operations, or of all when none are named' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -s o -l recording -l output -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l format -d 'How to print the report' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l top-functions -d 'Functions to show' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l hot-path-threshold -d 'Share of the time that makes a call path hot' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand profile" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -s o -l output -d 'File to write [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand start" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand status" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand stop" -l mcp -d 'The recording of this server' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand stop" -l pid -d 'The recording of this process' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand stop" -l all -d 'All background recordings'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand stop" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it; can be given several times [default: all that run]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l pid -d 'Process with this ID, and its children; can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l window -d 'Time that the figures are of: 1s to 60s' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l interval -d 'Time between two looks [default: 1s; with --batch the window]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -s n -l count -d 'End after so many tables; text as with --batch' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l format -d 'How to print tables; json is one object a line, as with --batch' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -s o -l output -d 'Keep the whole recording in this file' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l batch -d 'Print a table as text at each interval, and one of what is new at the end'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -l once -d 'One table: --count 1'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l top-functions -d 'Functions to show' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l flame-graph -d 'Also draw a flame graph [default file: the recording\'s name with .svg]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l hot-path-threshold -d 'Share of the time that makes a call path hot' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l call-tree -d 'Also show the call tree'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -l async-stacks -d 'Show who waits for a task of Python\'s asyncio below it, and leave out the event loop\'s own callers; no effect on others'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand cpu" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l format -d 'How to print the report' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l top-functions -d 'Functions to show' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l hot-path-threshold -d 'Share of the time that makes a call path hot' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l outcome -d 'Only calls that ended so' -r -f -a "ok\t'With a result'
error\t'With an error of JSON-RPC or of the tool'
tool_error\t'With an error of the tool'
unfinished\t'Without an answer: any of those below'
cancelled\t'Its client cancelled it'
unanswered\t'No answer came before its process ended, or its ID was used again'
cut_off\t'Its connection was closed first'
lost\t'Not known: its answer could not be recorded'
in_flight\t'It had not ended when the recording did'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l min-time -d 'Only calls that took at least this long' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l from -d 'Only calls that were in flight after this time since the recording\'s start' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l to -d 'Only calls that started before this time since the recording\'s start' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l limit -d 'Calls to show' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l format -d 'How to print them' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -l in-order -d 'In the order of their starts, not the slowest first'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand calls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand trace" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and not __fish_seen_subcommand_from slow-response errors help" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and not __fish_seen_subcommand_from slow-response errors help" -f -a "slow-response" -d 'Why the slowest calls of a tool are slower than its typical ones'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and not __fish_seen_subcommand_from slow-response errors help" -f -a "errors" -d 'Which errors there are, when, and what they have in common'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and not __fish_seen_subcommand_from slow-response errors help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l percentile -d 'Calls that took longer than this percentage of their tool\'s calls are slow; at least one is' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -l trace-requests -d 'Also show each slow call over its time'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from slow-response" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -l error-analysis -d 'Also compare failing calls with good ones: what came before them, their time, their CPU'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from errors" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from help" -f -a "slow-response" -d 'Why the slowest calls of a tool are slower than its typical ones'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from help" -f -a "errors" -d 'Which errors there are, when, and what they have in common'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand diagnose; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l min-share -d 'Leave out calls with less than this share of all time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l max-depth -d 'Leave out calls deeper than this' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l fold-by -d 'What a frame stands for; functions of a package that call each other are one frame of that package' -r -f -a "function\t'A function'
package\t'A package: node_modules/x, site-packages/y, a crate, a library, a file of the project'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -l async-stacks -d 'Show who waits for a task of Python\'s asyncio below it, and leave out the event loop\'s own callers; no effect on others'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand call-tree" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l timeout -d 'How long the server may take to answer' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l repeat -d 'Start it so often, one after the other, and show medians: caches are warm then' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l flame-graphs -d 'Folder to write a flame graph of each phase into, of the last start-up' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l recording -d 'Where to keep the recording of the last start-up [default: nowhere]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -l format -d 'How to print it' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand startup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -s o -l output -d 'SVG file to write [default: the recording\'s name with .svg]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l baseline -d 'Recording to compare with' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l current -d 'Recording to compare' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l fold-by -d 'What a frame stands for; functions of a package that call each other are one frame of that package' -r -f -a "function\t'A function'
package\t'A package: node_modules/x, site-packages/y, a crate, a library, a file of the project'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l diff -d 'Draw the difference between --baseline and --current'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -l async-stacks -d 'Show who waits for a task of Python\'s asyncio below it, and leave out the event loop\'s own callers; no effect on others'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand flame-graph" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l mcp -d 'Server of this name: from the configuration of your MCP client, or as `list` shows it' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l pid -d 'Process with this ID, and its children' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l duration -d 'End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l capture-arguments -d 'Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions [default without a number: 1024]' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l tool -d 'Only what was done for calls of this tool (prompt, resource, method); can be given several times' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l recording -d 'Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l format -d 'Format to write' -r -f -a "folded\t'A line for each stack, for flamegraph.pl and alike'
pprof\t'For `go tool pprof` and alike'
speedscope\t'For <https://www.speedscope.app>'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -s o -l output -d 'File to write, or - for standard output [default: the recording\'s name with the format\'s ending]' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l fold-by -d 'What a frame stands for; functions of a package that call each other are one frame of that package' -r -f -a "function\t'A function'
package\t'A package: node_modules/x, site-packages/y, a crate, a library, a file of the project'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l launch -d 'Start the server if it is not running'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l passive -d 'Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM\'s attach mechanism (SIGQUIT, and files in their /tmp), .NET servers by their diagnostics socket'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l no-calls -d 'Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -l async-stacks -d 'Show who waits for a task of Python\'s asyncio below it, and leave out the event loop\'s own callers; no effect on others'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand list" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand list" -l format -d 'How to print the list' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand doctor" -l pid -d 'Also look at the debug symbols of this process' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand doctor" -l mcp -d 'Also look at the debug symbols of this running server' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand doctor" -l config -d 'Also read this client configuration (JSON, of any client\'s shape)' -r -F
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand doctor" -l format -d 'How to print the findings' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -l duration -d 'How long to call the server' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -l frequency -d 'Samples a second of CPU time' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -l format -d 'How to print the report' -r -f -a "text\t'For people'
json\t'One JSON object, for programs'"
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -l top-functions -d 'Functions to show' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -l hot-path-threshold -d 'Share of the time that makes a call path hot' -r
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand demo-server" -s h -l help -d 'Print help'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "record" -d 'Record a server into a file'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "profile" -d 'Record a server, then report'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "start" -d 'Record in the background, also when this terminal is closed'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "status" -d 'Show background recordings'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "stop" -d 'End a background recording and keep what it has'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "top" -d 'Show what goes on now: calls, times and CPU of each tool'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "cpu" -d 'Show where CPU time goes: hot paths and top functions'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "report" -d 'Report on a recording, or record first'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "calls" -d 'List calls one by one, the slowest first'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "trace" -d 'Show one call: its time, its CPU, its stacks'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "diagnose" -d 'Say why calls are slow, or why they fail'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "call-tree" -d 'Show who calls whom, with the time spent there'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "startup" -d 'Start a server and show where the time to its first replies goes'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "flame-graph" -d 'Draw a flame graph, or the difference of two'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "export" -d 'Write a recording in the format of another tool'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "list" -d 'Show configured and running MCP servers'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "doctor" -d 'Say whether this machine can be profiled on, and what to do if not'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "demo" -d 'Profile a bundled MCP server under load'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "demo-server" -d 'The server that `demo` profiles'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and not __fish_seen_subcommand_from record profile start status stop top cpu report calls trace diagnose call-tree startup flame-graph export list doctor demo demo-server help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and __fish_seen_subcommand_from diagnose" -f -a "slow-response" -d 'Why the slowest calls of a tool are slower than its typical ones'
complete -c mcp-profiler -n "__fish_mcp_profiler_using_subcommand help; and __fish_seen_subcommand_from diagnose" -f -a "errors" -d 'Which errors there are, when, and what they have in common'
