FROM BASE
COPY *.txt /w/
COPY di?/x /w2/
COPY file[[]1].txt /w3/
COPY d*/sub /w4/
